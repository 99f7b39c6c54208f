# SPDX-License-Identifier: MIT
"""The configuration of mailseal-set-hash: /etc/mailseal/set-hash.yaml.

    database   passwd-file, sqlite, postgresql or mariadb
    path       the file, for passwd-file and sqlite
    connect    for the other two: the arguments of psycopg.connect() or pymysql.connect()
               (host, dbname or database, user, password, unix_socket ...)
    query      one UPDATE for SQL, with %(user)s and %(hash)s as parameters
    scheme     scheme of the hash, from the list of `doveadm pw -l` (SHA512-CRYPT)
    prefix     whether the hash begins with its {SCHEME} (true)

It can contain the password of the database, so it is a separate file that only the users of
this program can read.

FAILURES
    ConfigError with the file and the problem.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Mapping
from typing import Any

from mailseal.errors import ConfigError

KINDS = ("passwd-file", "sqlite", "postgresql", "mariadb")
_MAX_FILE = 65536


@dataclasses.dataclass(frozen=True)
class Database:
    """The user database, and how to write a hash to it."""

    kind: str
    path: str = ""
    connect: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    query: str = ""
    scheme: str = "SHA512-CRYPT"
    prefix: bool = True


_TYPES = {
    "database": str,
    "path": str,
    "connect": dict,
    "query": str,
    "scheme": str,
    "prefix": bool,
}


def load(path: str) -> Database:
    """Read and check the file."""
    import yaml

    text = _read(path)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{path}: not valid YAML") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: contains no options")
    for name, value in content.items():
        if name not in _TYPES:
            raise ConfigError(f"{path}: unknown option {name}")
        if not isinstance(value, _TYPES[name]):
            raise ConfigError(f"{path}: option {name} takes a {_TYPES[name].__name__}")
    kind = content.pop("database", "")
    if kind not in KINDS:
        raise ConfigError(f"{path}: option database takes {', '.join(KINDS)}")
    found = Database(kind, **content)
    in_a_file = kind in ("passwd-file", "sqlite")
    if in_a_file and not found.path.startswith("/"):
        raise ConfigError(f"{path}: option path takes an absolute path")
    if found.connect.get("autocommit"):
        raise ConfigError(f"{path}: option connect must not contain autocommit")
    if kind != "passwd-file" and not all(f"%({name})s" in found.query for name in ("user", "hash")):
        raise ConfigError(f"{path}: option query takes an UPDATE with %(user)s and %(hash)s")
    return found


def _read(path: str) -> str:
    """The text of a file that only root or the current user can have written."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as stream:
            require_own(os.fstat(fd), path)
            return stream.read(_MAX_FILE).decode()
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def require_own(found: os.stat_result, path: str) -> None:
    """Raise ConfigError if anybody but root and this user can write to it."""
    if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o022:
        raise ConfigError(
            f"{path} can be changed by other users than its owner, or has the wrong owner",
            hint=f"`ls -ld {path}` shows its owner and mode",
        )
