# SPDX-License-Identifier: MIT
"""The configuration: one YAML file, checked against the table in options.py.

An unknown option, a wrong type or a value out of range is an error with file, line and
option.  A missing file is an error.  A missing option has its default.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from mailseal.errors import ConfigError
from mailseal.options import OPTIONS, Option, Options

DEFAULT_PATH = "/etc/mailseal/mailseal.yaml"


_BY_NAME = {option.name: option for option in OPTIONS}
_SECTIONS = {name.partition(".")[0] for name in _BY_NAME if "." in name}


def socket_address(value: str) -> str | tuple[str, int]:
    """An address for the socket module: a path, or (host, port)."""
    if value.startswith("/"):
        return value
    host, _, port = value.rpartition(":")
    return host.strip("[]"), int(port)


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Checked values as attributes, in the units the code uses (bytes, seconds)."""

    path: str = DEFAULT_PATH

    @property
    def keys_dir(self) -> str:
        """Folder of the keyrings; only the agent can read it."""
        return os.path.join(self.state_dir, "keys")

    @property
    def sealer_dir(self) -> str:
        """Folder with the progress of mailseal-sealer; belongs to root, but files can be opened."""
        return os.path.join(self.state_dir, "sealer")

    @property
    def checks_dir(self) -> str:
        """Folder with the results of `verify.at_login`; like sealer_dir."""
        return os.path.join(self.state_dir, "checks")

    @property
    def notes_dir(self) -> str:
        """What the agent notes about users: wishes, last uses.  No secrets."""
        return os.path.join(self.state_dir, "notes")

    @property
    def public_dir(self) -> str:
        """Folder of the public keys; readable for the delivery daemon."""
        return os.path.join(self.state_dir, "public")

    @property
    def dovecot_is_here(self) -> bool:
        """False on a host that only receives mail, if Dovecot runs on another one."""
        return self.delivery.userdb == "dovecot" or self.dovecot.lmtp_socket.startswith("/")


def load(path: str = DEFAULT_PATH) -> Config:
    """Read and check a file.  Raises ConfigError with file, line and option."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {path}",
            hint="see Configuration in docs/install.md; -c names another file",
        ) from None
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    return parse(text, path)


def parse(text: str, path: str = "mailseal.yaml") -> Config:
    """Check a configuration given as text; `path` is for messages."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {exc.problem or 'not valid YAML'}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{path}: not valid YAML") from None
    config = Config(path=path)
    if root is not None:
        for name, node in _walk(root, path):
            config = _with(config, name, _checked(name, node, path))
    return config


def _with(options: Any, name: str, value: Any) -> Any:
    """A copy of the configuration, or of a section, with this value of one option."""
    head, _, rest = name.partition(".")
    return dataclasses.replace(
        options, **{head: _with(getattr(options, head), rest, value) if rest else value}
    )


def _walk(root: Any, path: str) -> list[tuple[str, Any]]:
    """Flatten two levels of mappings into (dotted name, node); refuse everything else."""
    import yaml

    found: dict[str, Any] = {}

    def visit(node: Any, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            what = f"option {prefix[:-1]}" if prefix else "the file"
            raise ConfigError(f"{path}:{node.start_mark.line + 1}: {what} must contain options")
        for key, value in node.value:
            name = f"{prefix}{getattr(key, 'value', '')}"
            line = key.start_mark.line + 1
            if not prefix and name in _SECTIONS:
                visit(value, f"{name}.")
            elif name not in _BY_NAME:
                raise ConfigError(f"{path}:{line}: unknown option {name}", hint=_nearest(name))
            elif name in found:
                raise ConfigError(f"{path}:{line}: option {name} is set twice")
            else:
                found[name] = value

    visit(root, "")
    return list(found.items())


def _nearest(name: str) -> str | None:
    import difflib

    near = difflib.get_close_matches(name, _BY_NAME, 1, 0.5)
    return f"did you mean {near[0]}?" if near else None


def _checked(name: str, node: Any, path: str) -> Any:
    import yaml

    option = _BY_NAME[name]
    line = node.start_mark.line + 1
    try:
        loader = yaml.SafeLoader("")
        value = loader.construct_object(node, deep=True)
        return option.kind.check(value)
    except (ValueError, TypeError, yaml.YAMLError):
        raise ConfigError(
            f"{path}:{line}: option {name} takes {option.kind.takes}",
            hint=option.kind.dropped.get(str(node.value)),
        ) from None


def describe(config: Config) -> str:
    """The present configuration as YAML that `load` accepts, with the help of each option."""
    import textwrap

    lines: list[str] = []
    section = ""
    for option in OPTIONS:
        head, _, tail = option.name.rpartition(".")
        if head != section:
            lines.append(f"{head}:")
            section = head
        indent = "  " if head else ""
        usual = written(option, option.kind.check(option.default))
        mark = f"{indent}# "
        for about in (option.help, f"Takes {option.kind.takes}.  Default: {usual}"):
            lines += textwrap.wrap(
                about, 96, initial_indent=mark, subsequent_indent=mark, break_on_hyphens=False
            )
        lines.append(f"{indent}{tail}: {written(option, option.value_in(config))}")
    return "\n".join(lines) + "\n"


def written(option: Option, value: Any) -> str:
    import json

    return json.dumps(option.kind.write(value))  # a tuple becomes a list
