# SPDX-License-Identifier: MIT
"""All kinds of existing passdbs before mailseal's; each is a real one, in a lab."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping

from tests.e2e.chain import Chain
from tests.e2e.sql_chains import Postgresql, Sqlite, SqlitePrefetch
from tests.lab.dovecot import installed_version
from tests.lab.place import MAIL_UID, LabError, free_ports
from tests.lab.process import Server


class PasswdFile(Chain):
    """Dovecot's own passwd-file: the lab writes it."""

    snippet = "auth-behind-passwd-file"

    def block_24(self) -> str:
        path = f"  passwd_file_path = {self.lab.dovecot.wanted.users_file}\n"
        return f"passdb passwd-file {{\n{path}}}\nuserdb passwd-file {{\n{path}}}\n"

    def set_password(self, user: str, password: str) -> None:
        if user in self.passwords:
            time.sleep(1.1)  # Dovecot checks the time of the file once per second
        super().set_password(user, password)
        self.lab.dovecot.write_users(self.passwords)


class PasswdFileCheckpassword(PasswdFile):
    """For a Dovecot 2.3 without Lua."""

    snippet = "auth-behind-passwd-file-checkpassword"

    @classmethod
    def missing(cls) -> str:
        return "" if installed_version().startswith("2.3.") else "Dovecot 2.3"


class Ldap(Chain):
    """A slapd for the lab; Dovecot binds as the user."""

    snippet = "auth-behind-ldap"

    def block_24(self) -> str:
        return (
            f"ldap_uris = ldap://127.0.0.1:{self._port}\nldap_base = dc=lab\n"
            "passdb ldap {\n  ldap_filter = (mail=%{user})\n"
            "  ldap_bind = yes\n  ldap_bind_userdn = mail=%{user},dc=lab\n}\n"
            "userdb ldap {\n  ldap_filter = (&(objectClass=posixAccount)(mail=%{user}))\n"
            "  fields {\n    home = %{ldap:homeDirectory}\n"
            "    uid = %{ldap:uidNumber}\n    gid = %{ldap:gidNumber}\n  }\n}\n"
        )

    @classmethod
    def missing(cls) -> str:
        return "" if shutil.which("slapd", path="/usr/sbin") else "slapd ldap-utils dovecot-ldap"

    def places(self) -> Mapping[str, str]:
        return {
            "/etc/dovecot/dovecot-ldap.conf.ext": self.lab.place.path("dovecot", "ldap.conf.ext")
        }

    def start(self) -> None:
        (self._port,) = free_ports(1)
        data = self.lab.place.path("ldap")
        os.mkdir(data)
        conf = self.lab.place.path("slapd.conf")
        with open(conf, "w", encoding="utf-8") as stream:
            for schema in ("core", "cosine", "inetorgperson", "nis"):
                stream.write(f"include /etc/ldap/schema/{schema}.schema\n")
            stream.write(
                "modulepath /usr/lib/ldap\nmoduleload back_mdb\n"
                f"pidfile {data}/pid\nargsfile {data}/args\n"
                f'database mdb\nsuffix "dc=lab"\nrootdn "cn=root,dc=lab"\nrootpw root\n'
                f"directory {data}\nmaxsize 10485760\n"
                "access to attrs=userPassword by anonymous auth by * none\n"
                "access to * by * read\n"
            )
        self._server = Server(
            "slapd",
            ["/usr/sbin/slapd", "-d", "0", "-f", conf, "-h", f"ldap://127.0.0.1:{self._port}/"],
            self.lab.place.path("log", "slapd.log"),
        )
        self._server.start(until=[("127.0.0.1", self._port)])
        self._ldap(
            "ldapadd", "dn: dc=lab\nobjectClass: dcObject\nobjectClass: organization\no: x\n"
        )
        with open(self.places()["/etc/dovecot/dovecot-ldap.conf.ext"], "w") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(
                f"hosts = 127.0.0.1:{self._port}\nbase = dc=lab\nauth_bind = yes\n"
                "auth_bind_userdn = mail=%u,dc=lab\n"
                "user_attrs = homeDirectory=home, uidNumber=uid, gidNumber=gid\n"
                "user_filter = (&(objectClass=posixAccount)(mail=%u))\n"
            )

    def _ldap(self, program: str, text: str) -> None:
        url = f"ldap://127.0.0.1:{self._port}/"
        done = subprocess.run(
            [program, "-x", "-H", url, "-D", "cn=root,dc=lab", "-w", "root"],
            input=text.encode(),
            capture_output=True,
        )
        if done.returncode:
            raise LabError(f"{program}: {done.stderr.decode(errors='replace').strip()}")

    def set_password(self, user: str, password: str) -> None:
        dn = f"dn: mail={user},dc=lab\n"
        if user in self.passwords:
            change = f"changetype: modify\nreplace: userPassword\nuserPassword: {password}\n"
            self._ldap("ldapmodify", dn + change)
        else:
            self._ldap(
                "ldapadd",
                f"{dn}objectClass: inetOrgPerson\nobjectClass: posixAccount\nmail: {user}\n"
                f"cn: x\nsn: x\nuid: {user}\nuidNumber: {MAIL_UID}\ngidNumber: {MAIL_UID}\n"
                f"homeDirectory: {self.lab.home(user)}\nuserPassword: {password}\n",
            )
        super().set_password(user, password)

    def stop(self) -> None:
        self._server.stop()


class Pam(Chain):
    """Linux-PAM with a service file that only this Dovecot sees.

    Users of the lab are not system users.  So pam_exec checks the password, and a
    passwd-file has the home directories, instead of `driver = passwd`.
    """

    snippet = "auth-behind-pam"

    @classmethod
    def missing(cls) -> str:
        can = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
        return "" if can else "a kernel that lets this root unshare(1) its mounts"

    def places(self) -> Mapping[str, str]:
        users = self.lab.dovecot.wanted.users_file
        return {"  driver = passwd\n": f"  driver = passwd-file\n  args = {users}\n"}

    def block_24(self) -> str:
        users = self.lab.dovecot.wanted.users_file
        # The name is as in the file, but the driver is another one: see above.
        return (
            "passdb pam {\n}\n"
            f"userdb passwd {{\n  driver = passwd-file\n  passwd_file_path = {users}\n}}\n"
        )

    def start(self) -> None:
        self._pam = self.lab.place.path("pam.d")
        self._table = self.lab.place.path("pam-users")
        check = self.lab.place.path("pam-check")
        os.mkdir(self._pam)
        with open(check, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o755)
            # pam_exec passes the password with a NUL at its end
            stream.write(
                "#!/bin/sh\npassword=$(tr -d '\\000')\n"
                f'exec grep -qxF "$PAM_USER $password" {self._table}\n'
            )
        with open(os.path.join(self._pam, "dovecot"), "w", encoding="utf-8") as stream:
            stream.write(
                f"auth required pam_exec.so expose_authtok quiet {check}\n"
                "account required pam_permit.so\n"
            )
        self._write()
        server = self.lab.dovecot._server
        # a separate mount namespace: the machine's /etc/pam.d is not changed
        server.command = [
            "unshare", "-m", "sh", "-c",
            f'mount --bind {self._pam} /etc/pam.d && exec "$@"', "sh", *server.command,
        ]  # fmt: skip

    def _write(self) -> None:
        with open(self._table, "w", encoding="utf-8") as stream:
            stream.writelines(f"{user} {word}\n" for user, word in self.passwords.items())

    def set_password(self, user: str, password: str) -> None:
        super().set_password(user, password)
        self.lab.dovecot.write_users(dict.fromkeys(self.passwords, "not asked"))
        self._write()


CHAINS: tuple[type[Chain], ...] = (
    PasswdFile,
    PasswdFileCheckpassword,
    Sqlite,
    SqlitePrefetch,
    Postgresql,
    Ldap,
    Pam,
)
