<?php
// SPDX-License-Identifier: MIT
//
// For PostfixAdmin 3.3: when users change their password, the keyring changes too.
// That version cannot run a script when a password changes, so config.local.php includes this
// file.  It is active only for the form in users/password.php.  docs/panels.md
// has the line to add, and what to do for PostfixAdmin 4.

require_once __DIR__ . '/mailseal.php';

function mailseal_postfixadmin($command = '/usr/local/bin/mailseal')
{
    $script = str_replace('\\', '/', $_SERVER['SCRIPT_NAME'] ?? '');
    $user = $_SESSION['sessid']['username'] ?? '';
    $is_user = in_array('user', $_SESSION['sessid']['roles'] ?? [], true);
    if (!preg_match('{/users/password\.php$}', $script) || $_SERVER['REQUEST_METHOD'] !== 'POST'
        || isset($_POST['fCancel']) || $user === '' || !$is_user) {
        return;
    }
    list($token, $old, $new, $again) = array_map(
        function ($name) {
            return is_string($_POST[$name] ?? null) ? $_POST[$name] : '';
        },
        ['token', 'fPassword_current', 'fPassword', 'fPassword2']
    );
    if ($new === '' || $new !== $again || !hash_equals((string) ($_SESSION['PFA_token'] ?? ''), $token)) {
        return; // PostfixAdmin refuses these itself
    }
    $keyring = new MailsealPasswd($user, $command);
    switch ($keyring->begin($old, $new)) {
        case MailsealPasswd::DONE:
            break;
        case MailsealPasswd::NOT_ENROLLED:
            return;
        case MailsealPasswd::WRONG_PASSWORD:
            mailseal_postfixadmin_refuse('Your current password does not open your mail. Nothing was changed.');
        case MailsealPasswd::WRONG_INPUT:
            mailseal_postfixadmin_refuse('This password is too long, or contains a character that is not allowed. Nothing was changed.');
        default:
            mailseal_postfixadmin_refuse('Passwords cannot be changed at the moment. Nothing was changed. Please try again later.');
    }
    register_shutdown_function(function () use ($keyring, $user, $old, $new) {
        // The hash in the database decides.  If it cannot be read, both passwords open the
        // keyring until a login shows which one is valid.
        try {
            $login = new Login('mailbox');
            if ($login->login($user, $new)) {
                $keyring->commit();
            } elseif ($login->login($user, $old)) {
                $keyring->undo();
            }
        } catch (\Throwable $exception) {
            error_log('mailseal: the password of a user could not be read back: ' . get_class($exception));
        }
    });
}

function mailseal_postfixadmin_refuse($text)
{
    $_SESSION['flash']['error'][] = $text;
    header('Location: password.php');
    exit(0);
}
