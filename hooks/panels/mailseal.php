<?php
// SPDX-License-Identifier: MIT
//
// For panels written in PHP: changes the password of the keyring together with the hash.  See docs/panels.md.
// `mailseal` runs as the web server's user, which must be in the option agent.panel_users.
// Passwords are passed on standard input, never as arguments.

class MailsealPasswd
{
    const DONE = 0;
    const WRONG_INPUT = 64;
    const NOT_ENROLLED = 67;
    const WRONG_PASSWORD = 77;
    const TRY_LATER = 75;

    private $user;
    private $change = '';
    private $command;

    public function __construct($user, $command = '/usr/local/bin/mailseal')
    {
        $this->user = $user;
        $this->command = is_array($command) ? $command : [$command];
    }

    // DONE: both passwords open the keyring, until commit(), undo() or a login ends the change.
    // NOT_ENROLLED: the user has no keyring; only the hash must be changed.
    public function begin($old, $new)
    {
        foreach ([$old, $new] as $password) {
            if ($password === '' || strpbrk($password, "\0\r\n") !== false) {
                return self::WRONG_INPUT;
            }
        }
        list($status, $said) = $this->run(['passwd', '--stdin', '--keep-old', '--', $this->user], "$old\n$new\n");
        if ($status === self::DONE) {
            $this->change = trim($said);
        } elseif ($status === self::WRONG_PASSWORD) {
            // The exit status is the same for a user who is not enrolled: find out which it is.
            list($known) = $this->run(['status', '--', $this->user], '');
            return $known === self::NOT_ENROLLED ? self::NOT_ENROLLED : self::WRONG_PASSWORD;
        }
        return $status;
    }

    // The user database has the new hash: remove the old password from the keyring.
    public function commit()
    {
        return $this->settle('--commit');
    }

    // The user database certainly has the old hash: remove the new password from the keyring.
    public function undo()
    {
        return $this->settle('--undo');
    }

    private function settle($how)
    {
        if ($this->change === '') {
            return self::DONE;
        }
        list($status) = $this->run(['passwd', $how, $this->change, '--', $this->user], '');
        return $status;
    }

    private function run($words, $input)
    {
        $pipes = [];
        $files = [['pipe', 'r'], ['pipe', 'w'], ['file', '/dev/null', 'w']];
        $process = proc_open(array_merge($this->command, $words), $files, $pipes);
        if (!is_resource($process)) {
            return [self::TRY_LATER, ''];
        }
        fwrite($pipes[0], $input);
        fclose($pipes[0]);
        $said = stream_get_contents($pipes[1]);
        fclose($pipes[1]);
        return [proc_close($process), $said];
    }
}
