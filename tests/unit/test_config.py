"""The configuration: errors in the file are reported with line and option."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailseal import config
from mailseal.errors import ConfigError
from mailseal.options import OPTIONS


def test_what_is_printed_loads_again_unchanged() -> None:
    first = config.parse(
        "delivery:\n  workers: 3\n  in_flight_limit: 64M\n  idle_timeout: 90\nlog: {to: stderr}\n"
    )
    again = config.parse(config.describe(first))
    assert again == first
    assert first.delivery.in_flight_limit == 64 << 20


def test_every_option_is_described_once() -> None:
    lines = config.describe(config.parse("")).split("\n")
    text = " ".join(" ".join(line.strip().removeprefix("# ") for line in lines).split())
    for option in OPTIONS:
        about = " ".join(f"{option.help} Takes {option.kind.takes}. Default: ".split())
        assert text.count(about) == 1, option.name


def test_an_option_is_an_attribute_and_a_wrong_name_is_none() -> None:
    changed = config.parse("delivery: {workers: 3}\nstate_dir: /x//y")
    assert (changed.delivery.workers, changed.keys_dir) == (3, "/x/y/keys")
    assert changed.delivery.commit_threads == config.Config().delivery.commit_threads == 4
    with pytest.raises(AttributeError):
        _ = changed.delivery.wokers  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stat_dir: /x", "c.yaml:1: unknown option stat_dir"),
        ("delivery:\n  wokers: 2", "c.yaml:2: unknown option delivery.wokers"),
        ("delivery: 3", "c.yaml:1: option delivery must contain options"),
        (
            "delivery:\n\n  workers: many",
            "c.yaml:3: option delivery.workers takes a number",
        ),
        ("delivery: {workers: 0}", "takes a number from 1 to 256"),
        ("delivery: {workers: true}", "takes a number"),
        ("delivery: {message_limit: 10X}", "takes a size"),
        ("delivery: {idle_timeout: -3}", "takes a duration"),
        ("delivery: {listen: [1]}", "takes a list, each entry an absolute path or host:port"),
        ("agent: {socket: relative}", "takes an absolute path"),
        ("agent: {socket_mode: 0660}", "an octal mode in quotes"),
        ("web: {address_header: X-Forwarded-For}", "such as X-Real-IP; not Forwarded"),
        ("web: {user_header: X_Remote_User}", "such as X-Real-IP; not Forwarded"),
        ("dovecot: {version: 2.5}", "takes auto, 2.3 or 2.4"),
        ("state_dir: /a\nstate_dir: /b", "c.yaml:2: option state_dir is set twice"),
        ("- 1", "the file must contain options"),
        ("a: [", "c.yaml:1: "),
        ("state_dir: &x !!python/object:os.system {}", "takes an absolute path"),
    ],
)
def test_mistakes_are_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "c.yaml")
    assert says in str(caught.value)


def test_a_near_miss_gets_a_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse("delivery: {wokers: 2}")
    assert caught.value.hint == "did you mean delivery.workers?"


def test_a_value_of_earlier_versions_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="takes refuse") as caught:
        config.parse("login:\n  stale_password: limited\n")
    assert caught.value.hint is not None and "empty mails" in caught.value.hint


def test_missing_file_and_wrong_encoding(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        config.load(str(tmp_path / "none.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"state_dir: /\xe4")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(str(tmp_path / "latin.yaml"))


def test_sockets() -> None:
    assert config.socket_address("/run/x") == "/run/x"
    assert config.socket_address("127.0.0.1:24") == ("127.0.0.1", 24)
    assert config.socket_address("[::1]:24") == ("::1", 24)
