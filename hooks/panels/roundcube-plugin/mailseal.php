<?php
// SPDX-License-Identifier: MIT
//
// A plugin for Roundcube (1.4 and later): a tab in the settings that shows whether the user's mail is
// encrypted and leads to mailseal-web, and the password driver.  docs/panels.md has the installation.
//
//     $config['plugins'][] = 'mailseal';
//     $config['mailseal_url'] = 'https://mail.example.org/mailseal/';

class mailseal extends rcube_plugin
{
    public $task = 'settings';

    private const NOT_ENROLLED = 67;
    private const WRONG_PASSWORD = 77;

    private $rc;

    public function init()
    {
        $this->rc = rcmail::get_instance();
        $this->load_config();
        $this->use_password_driver();
        $this->add_texts('localization/');
        $this->add_hook('settings_actions', [$this, 'add_tab']);
        $this->register_action('plugin.mailseal', [$this, 'show']);
    }

    // The configured driver changes the hash; mailseal's driver also changes the keyring: see roundcube.php.
    private function use_password_driver()
    {
        $config = $this->rc->config;
        $configured = $config->get('password_driver', 'sql');
        if ($configured !== 'mailseal' && file_exists(dirname($this->home) . '/password/drivers/mailseal.php')) {
            $config->set('password_mailseal_driver', $config->get('password_mailseal_driver', $configured));
            $config->set('password_driver', 'mailseal');
        }
    }

    public function add_tab($args)
    {
        $args['actions'][] = [
            'action' => 'plugin.mailseal',
            'class' => 'enigma keys',
            'label' => 'tab',
            'title' => 'title',
            'domain' => 'mailseal',
        ];
        return $args;
    }

    public function show()
    {
        $this->register_handler('plugin.body', [$this, 'body']);
        $this->rc->output->set_pagetitle($this->gettext('title'));
        $this->rc->output->send('plugin');
    }

    public function body()
    {
        list($status, $state) = $this->state();
        $rows = [];
        if ($status === self::NOT_ENROLLED) {
            $lines = [$this->gettext('off')];
            $links = ['turn-on' => 'turnon'];
        } elseif ($status === self::WRONG_PASSWORD) {
            $lines = [$this->gettext('on'), $this->gettext('otherpassword')];
            $links = ['' => 'overview'];
        } elseif (!is_array($state)) {
            $lines = [$this->gettext('unknown')];
            $links = [];
        } else {
            $lines = [$this->gettext('on')];
            if (empty($state['second_way'])) {
                $lines[] = $this->gettext('norecovery');
            }
            $rows = $this->rows($state);
            $links = ['' => 'overview', 'app-passwords' => 'apps', 'recovery-code' => 'recovery'];
        }
        $text = '';
        foreach ($lines as $line) {
            $text .= html::p(null, rcube::Q($line));
        }
        $table = new html_table(['cols' => 2, 'class' => 'propform']);
        foreach ($rows as $name => $value) {
            $table->add('title', html::label(null, rcube::Q($this->gettext($name))));
            $table->add(null, rcube::Q($value));
        }
        if ($rows) {
            $text .= $table->show();
        }
        $url = (string) $this->rc->config->get('mailseal_url', '');
        $buttons = '';
        foreach ($url === '' ? [] : $links as $path => $name) {
            $attributes = ['href' => rtrim($url, '/') . '/' . $path, 'class' => 'button btn btn-secondary'];
            $attributes += ['target' => '_blank', 'rel' => 'noopener'];
            $buttons .= html::a($attributes, rcube::Q($this->gettext($name))) . ' ';
        }
        $title = html::div('boxtitle', rcube::Q($this->gettext('title')));
        return html::div('box formcontainer scroller', $title . html::div('boxcontent formcontent', $text . html::p(null, $buttons)));
    }

    private function rows($state)
    {
        $key = end($state['keys']);
        $apps = array_filter($state['slots'], function ($slot) {
            return $slot['kind'] === 'app';
        });
        $labels = implode(', ', array_column($apps, 'label'));
        $rows = ['since' => date('Y-m-d', $state['created']), 'key' => substr($key['id'], 0, 16)];
        $rows['apps'] = $labels === '' ? $this->gettext('none') : $labels;
        if (!empty($state['existing'])) {
            $job = $state['existing'];
            $rows['oldmail'] = $this->gettext('phase_' . $job['phase']);
            if ($job['phase'] === 'sealing' || $job['phase'] === 'unsealing') {
                $rows['oldmail'] .= " ({$job['done']} / {$job['total']})";
            }
        }
        return $rows;
    }

    // Exit status and result of `mailseal status` for the user, with the password from the session.
    private function state()
    {
        // For a user who is not enrolled, every password is wrong, so ask without a password first.
        $found = $this->run(['status', '--json'], '');
        if ($found[0] !== 0) {
            return $found;
        }
        return $this->run(['status', '--json', '--stdin'], $this->rc->decrypt($_SESSION['password']) . "\n");
    }

    private function run($words, $input)
    {
        $command = $this->rc->config->get('password_mailseal_command', '/usr/local/bin/mailseal');
        $words = array_merge(is_array($command) ? $command : [$command], $words, ['--', $this->rc->get_user_name()]);
        $files = [['pipe', 'r'], ['pipe', 'w'], ['file', '/dev/null', 'w']];
        $process = proc_open($words, $files, $pipes);
        if (!is_resource($process)) {
            return [75, null];
        }
        fwrite($pipes[0], $input);
        fclose($pipes[0]);
        $said = json_decode(stream_get_contents($pipes[1]), true);
        fclose($pipes[1]);
        return [proc_close($process), $said['users'][0] ?? null];
    }
}
