# SPDX-License-Identifier: MIT
"""nginx and Apache with TLS and the shipped snippets, in front of the page."""

from __future__ import annotations

import os
import re
import subprocess

from tests.lab.place import REPOSITORY, LabError, free_ports
from tests.lab.process import Server
from tests.web.site import Site

NGINX, APACHE = "/usr/sbin/nginx", "/usr/sbin/apache2"


class Front:
    """A web server on https://127.0.0.1:PORT/."""

    def __init__(
        self, site: Site, kind: str, more: str = "", *, group: str = "", factor: bool = False
    ) -> None:
        """`more` is configuration for the virtual host, in the syntax of the server.

        `group`: nginx's workers run as www-data with this group, Apache's too.
        `factor`: the lines for a second factor are used.
        """
        self.site = site
        self.group = group
        (self.port,) = free_ports(1)
        self.url = f"https://127.0.0.1:{self.port}/mailseal/"
        self.folder = site.lab.place.path(f"{kind}-{self.port}")
        os.mkdir(self.folder)
        self._certificate()
        with open(os.path.join(REPOSITORY, "web-conf", f"{kind}.conf"), encoding="utf-8") as f:
            snippet = f.read().replace("/run/mailseal/web.sock", site.web_socket)
        if factor:
            # Only these lines have no space after the #.
            snippet = re.sub(r"(?m)^( *)#(?=[a-zA-Z])", r"\1", snippet)
        self._write("snippet.conf", snippet)
        conf = self._write(f"{kind}.conf", (_nginx if kind == "nginx" else _apache)(self, more))
        if kind == "nginx":
            command = [NGINX, "-c", conf, "-p", self.folder, "-g", "daemon off;"]
        else:
            command = [APACHE, "-f", conf, "-d", self.folder, "-DFOREGROUND"]
        log = site.lab.place.path("log", f"{kind}.log")
        self._server = Server(kind, command, log)

    def __enter__(self) -> Front:
        self._server.start(until=[("127.0.0.1", self.port)])
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def pids(self) -> list[int]:
        return self._server.pids()

    def _write(self, name: str, text: str) -> str:
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path

    def _certificate(self) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += [
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
        ]
        command += ["-keyout", f"{self.folder}/key.pem", "-out", f"{self.folder}/cert.pem"]
        if subprocess.run(command, capture_output=True).returncode:
            raise LabError("openssl could not make a certificate")


def _nginx(front: Front, more: str) -> str:
    folder = front.folder
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"pid {folder}/pid;\nerror_log stderr;\nworker_processes 1;\n"
        f"user {f'www-data {front.group}' if front.group else 'root'};\n"
        f"events {{ worker_connections 256; }}\nhttp {{\n  access_log {folder}/access.log;\n"
        f"{temporary}\n  server {{\n    listen 127.0.0.1:{front.port} ssl;\n"
        f"    ssl_certificate {folder}/cert.pem;\n    ssl_certificate_key {folder}/key.pem;\n"
        f"    include {folder}/snippet.conf;\n{more}\n  }}\n}}\n"
    )


def _apache(front: Front, more: str) -> str:
    folder = front.folder
    names = ("mpm_event", "authz_core", "alias", "proxy", "proxy_http", "headers", "ssl", "unixd")
    there = "/usr/lib/apache2/modules"
    modules = [n for n in (*names, "socache_shmcb") if os.path.exists(f"{there}/mod_{n}.so")]
    load = "\n".join(f"LoadModule {name}_module {there}/mod_{name}.so" for name in modules)
    return (
        f"{load}\nServerName 127.0.0.1\nUser www-data\nGroup {front.group or 'www-data'}\n"
        f"PidFile {folder}/pid\n"
        f"DefaultRuntimeDir {folder}\nErrorLog /dev/stderr\nMutex pthread\n"
        f"Listen 127.0.0.1:{front.port}\n<VirtualHost *:{front.port}>\n  SSLEngine on\n"
        f"  SSLCertificateFile {folder}/cert.pem\n  SSLCertificateKeyFile {folder}/key.pem\n"
        f'  CustomLog {folder}/access.log "%h %r %s"\n  Include {folder}/snippet.conf\n{more}\n'
        "</VirtualHost>\n"
    )
