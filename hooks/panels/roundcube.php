<?php
// SPDX-License-Identifier: MIT
//
// A driver for Roundcube's password plugin (1.4 and later).  It calls the driver that changes the
// hash, and changes the keyring too.  docs/panels.md describes the installation.
//
//     $config['password_driver'] = 'mailseal';
//     $config['password_mailseal_driver'] = 'sql';       // the one that changes the hash
//     $config['password_mailseal_command'] = '/usr/local/bin/mailseal';

require_once __DIR__ . '/mailseal.php';

class rcube_mailseal_password
{
    // Results of a driver which mean that the hash has certainly not changed.  PASSWORD_ERROR and
    // PASSWORD_CONNECT_ERROR can also mean that the answer of the database was lost.
    private const UNCHANGED = ['PASSWORD_CRYPT_ERROR', 'PASSWORD_IN_HISTORY', 'PASSWORD_CONSTRAINT_VIOLATION'];

    public function save($current, $new, $username)
    {
        $config = rcmail::get_instance()->config;
        $command = $config->get('password_mailseal_command', '/usr/local/bin/mailseal');
        $keyring = new MailsealPasswd($username, $command);
        switch ($keyring->begin($current, $new)) {
            case MailsealPasswd::DONE:
                break;
            case MailsealPasswd::NOT_ENROLLED:
                return $this->inner($config)->save($current, $new, $username);
            case MailsealPasswd::WRONG_INPUT:
                return PASSWORD_CONSTRAINT_VIOLATION;
            case MailsealPasswd::WRONG_PASSWORD:
                return PASSWORD_ERROR;
            default:
                return PASSWORD_CONNECT_ERROR;
        }
        if ($config->get('password_mailseal_driver', 'sql') === '') {
            // The keyring is the only password check.
            return $keyring->commit() === MailsealPasswd::DONE ? PASSWORD_SUCCESS : PASSWORD_CONNECT_ERROR;
        }
        $result = $this->inner($config)->save($current, $new, $username);
        $code = is_array($result) ? $result['code'] : $result;
        if ($code === PASSWORD_SUCCESS) {
            $keyring->commit();
        } elseif (in_array($code, array_map('constant', self::UNCHANGED), true)) {
            $keyring->undo();
        }
        // Otherwise it is unknown which hash the database has.  Both passwords open the keyring
        // until a login shows which one is valid.
        return $result;
    }

    private function inner($config)
    {
        $name = $config->get('password_mailseal_driver', 'sql');
        require_once INSTALL_PATH . "plugins/password/drivers/$name.php";
        $class = "rcube_{$name}_password";
        return new $class();
    }
}
