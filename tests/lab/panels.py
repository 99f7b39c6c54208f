# SPDX-License-Identifier: MIT
"""Debian's Roundcube and PostfixAdmin on PHP's web server, as www-data, and a simple browser."""

from __future__ import annotations

import contextlib
import glob
import http.cookiejar
import os
import re
import shutil
import sqlite3
import subprocess
import urllib.parse
import urllib.request

from tests.lab.place import LabError, free_ports
from tests.lab.process import Server

WEB_USER = "www-data"


class Browser:
    """Keeps cookies and follows redirects, like one tab of a browser."""

    def __init__(self, base: str) -> None:
        self._base = base
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)

    def get(self, path: str) -> str:
        with self._opener.open(self._base + path, timeout=60) as answer:
            return str(answer.read().decode("utf-8", "replace"))

    def post(self, path: str, **fields: str) -> str:
        data = urllib.parse.urlencode(fields).encode()
        with self._opener.open(self._base + path, data, timeout=60) as answer:
            return str(answer.read().decode("utf-8", "replace"))


class _Panel:
    """A folder that the web server's user can read, and the server."""

    def __init__(self, name: str, folder: str) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}/"
        for path in (folder, f"{folder}/sessions"):
            os.makedirs(path, exist_ok=True)
            shutil.chown(path, WEB_USER, WEB_USER)
        self.log = f"{folder}/php.log"
        self._name = name

    def _serve(self, root: str, prepend: str, **env: str) -> None:
        command = ["setpriv", f"--reuid={WEB_USER}", f"--regid={WEB_USER}", "--clear-groups"]
        command += ["php", "-S", f"127.0.0.1:{self.port}", "-t", root]
        for setting in (
            f"auto_prepend_file={prepend}",
            f"session.save_path={self.folder}/sessions",
            "display_errors=0",
            "log_errors=1",
            "opcache.enable=0",
        ):
            command += ["-d", setting]
        env = {"PHP_CLI_SERVER_WORKERS": "4", **env}
        self._server = Server(self._name, command, self.log, env=env)
        self._server.start(until=[("127.0.0.1", self.port)])

    def stop(self) -> None:
        self._server.stop()

    def _write(self, name: str, text: str) -> str:
        path = f"{self.folder}/{name}"
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        shutil.chown(path, WEB_USER, WEB_USER)
        return path


class Roundcube(_Panel):
    """Roundcube with its password plugin and mailseal's driver, which calls another driver."""

    def __init__(self, folder: str, imap_port: int, panels: str, options: str) -> None:
        super().__init__("Roundcube", folder)
        tree = f"{folder}/roundcube"
        os.makedirs(f"{tree}/plugins")
        for name in ("program", "skins", "SQL", "index.php"):
            os.symlink(f"/usr/share/roundcube/{name}", f"{tree}/{name}")
        plugins = "/usr/share/roundcube/plugins"
        for name in os.listdir(plugins):
            if name != "password":
                os.symlink(f"{plugins}/{name}", f"{tree}/plugins/{name}")
        shutil.copytree(f"{plugins}/password", f"{tree}/plugins/password", symlinks=False)
        os.symlink(f"{panels}/roundcube.php", f"{tree}/plugins/password/drivers/mailseal.php")
        os.symlink(f"{panels}/roundcube-plugin", f"{tree}/plugins/mailseal")
        database = self._write("roundcube.sqlite", "")
        with open("/usr/share/roundcube/SQL/sqlite.initial.sql", encoding="utf-8") as stream:
            schema = stream.read()
        with contextlib.closing(sqlite3.connect(database)) as tables:
            tables.executescript(schema)
        os.mkdir(f"{folder}/config")
        for name in ("defaults.inc.php", "mimetypes.php"):
            shutil.copy(f"/etc/roundcube/{name}", f"{folder}/config/{name}")
        for name in ("temp", "logs"):
            os.mkdir(f"{folder}/{name}")
            shutil.chown(f"{folder}/{name}", WEB_USER, WEB_USER)
        self._write(
            "config/config.inc.php",
            "<?php\n$config = [];\n"
            f"$config['db_dsnw'] = 'sqlite:///{database}?mode=0640';\n"
            f"$config['imap_host'] = '127.0.0.1:{imap_port}';\n"
            "$config['des_key'] = '0123456789abcdef01234567';\n"
            f"$config['temp_dir'] = '{folder}/temp';\n$config['log_dir'] = '{folder}/logs';\n"
            "$config['plugins'] = ['password'];\n"
            "$config['password_driver'] = 'mailseal';\n"
            "$config['password_minimum_length'] = 0;\n"
            "$config['password_confirm_current'] = true;\n" + options,
        )
        prepend = self._write(
            "prepend.php", f"<?php define('INSTALL_PATH', '{tree}/'); error_reporting(E_ERROR);\n"
        )
        self._serve(tree, prepend, ROUNDCUBE_CONFIG_DIR=f"{folder}/config")

    def login(self, user: str, password: str) -> Browser | None:
        """A logged-in tab; None if the login was refused."""
        tab = Browser(self.url)
        token = _token(tab.get("?_task=login"))
        page = tab.post(
            "?_task=login",
            _task="login",
            _action="login",
            _timezone="UTC",
            _user=user,
            _pass=password,
            _token=token,
        )
        return None if "rcmloginuser" in page else tab

    def change(self, tab: Browser, old: str, new: str) -> str:
        """The text of the page after the form was sent."""
        token = _token(tab.get("?_task=settings&_action=plugin.password"))
        page = tab.post(
            "?_task=settings&_action=plugin.password-save",
            _token=token,
            _curpasswd=old,
            _newpasswd=new,
            _confpasswd=new,
        )
        found = re.findall(r'display_message\("([^"]*)","(\w+)"', page)
        return " ".join(f"{kind}: {text}" for text, kind in found)


class PostfixAdmin(_Panel):
    """PostfixAdmin with a SQLite database.  Its upgrade script makes the tables."""

    def __init__(self, folder: str, local: str) -> None:
        super().__init__("PostfixAdmin", folder)
        tree = f"{folder}/postfixadmin"
        shutil.copytree(
            "/usr/share/postfixadmin",
            tree,
            ignore=shutil.ignore_patterns("config.*.php", "templates_c"),
        )
        os.mkdir(f"{tree}/templates_c")
        shutil.chown(f"{tree}/templates_c", WEB_USER, WEB_USER)
        with open("/etc/postfixadmin/config.inc.php", encoding="utf-8") as stream:
            text = stream.read()
        # Debian's file reads the password of the database from a file for www-data only.
        text = re.sub(r"(?m)^.*dbconfig\.inc\.php.*$", "", text)
        with open(f"{tree}/config.inc.php", "w", encoding="utf-8") as stream:
            stream.write(text)
        self.database = self._write("postfixadmin.sqlite", "")
        with open(f"{tree}/config.local.php", "w", encoding="utf-8") as stream:
            stream.write(
                "<?php\n$CONF['configured'] = true;\n$CONF['database_type'] = 'sqlite';\n"
                f"$CONF['database_name'] = '{self.database}';\n"
                "$CONF['encrypt'] = 'php_crypt:SHA512';\n"
                "$CONF['password_validation'] = ['/.{5}/' => 'password_too_short 5'];\n" + local
            )
        self.tree = tree
        prepend = self._write("prepend.php", "<?php error_reporting(E_ERROR);\n")
        self._serve(f"{tree}/public", prepend)

    def setup(self) -> None:
        """Make the tables."""
        code = (
            "chdir($argv[1]); define('POSTFIXADMIN_CLI', 1); error_reporting(E_ERROR);"
            "$_SERVER['REQUEST_METHOD'] = 'GET'; require 'upgrade.php';"
        )
        command = ["setpriv", f"--reuid={WEB_USER}", f"--regid={WEB_USER}", "--clear-groups"]
        command += ["php", "-r", code, "--", f"{self.tree}/public"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"PostfixAdmin's upgrade.php: {done.stdout}{done.stderr}")

    def login(self, user: str, password: str) -> Browser | None:
        tab = Browser(self.url)
        token = _value(tab.get("users/login.php"), "token")
        page = tab.post(
            "users/login.php", fUsername=user, fPassword=password, token=token, lang="en"
        )
        return None if 'name="fUsername"' in page else tab

    def change(self, tab: Browser, old: str, new: str, again: str | None = None) -> str:
        """The page after the form was sent."""
        token = _value(tab.get("users/password.php"), "token")
        return tab.post(
            "users/password.php",
            token=token,
            fPassword_current=old,
            fPassword=new,
            fPassword2=new if again is None else again,
            submit="Change Password",
        )


def _token(page: str) -> str:
    match = re.search(r'"request_token":"(\w+)"', page)
    if match is None:
        raise LabError(f"Roundcube's page has no token: {page[:2000]}")
    return match[1]


def _value(page: str, name: str) -> str:
    match = re.search(rf'name="{name}" value="([^"]*)"', page)
    if match is None:
        raise LabError(f"PostfixAdmin's page has no field {name}: {page[:2000]}")
    return match[1]


def missing() -> str:
    """The packages that are missing for these; empty if none."""
    there = all(map(os.path.isdir, ("/usr/share/roundcube", "/usr/share/postfixadmin")))
    return "" if there and glob.glob("/usr/bin/php") else "roundcube-core postfixadmin php-cli"
