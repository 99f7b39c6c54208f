# SPDX-License-Identifier: MIT
"""The manual pages render, and describe what there is and nothing else; completion completes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mailseal.admin.cli import build_parser
from mailseal.manual import completion, pages
from mailseal.options import OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = pages.all_pages()


def _rendered(name: str) -> str:
    """As man(1) shows it.  Every warning of groff is an error."""
    command = ["groff", "-ww", "-man", "-Kutf8", "-Tascii", "-P-cbou", "-rLL=300n"]
    done = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_a_page_renders_without_a_warning(name: str) -> None:
    text = _rendered(name)
    for heading in ("NAME", "DESCRIPTION", "FILES", "SEE ALSO"):
        assert f"\n{heading}\n" in text
    assert "`" not in text


def test_every_hook_has_a_page() -> None:
    programs = {path.name for path in (ROOT / "hooks").glob("mailseal*")}
    assert {name.rpartition(".")[0] for name in PAGES} == programs | {"mailseal.yaml"}


def test_every_command_and_option_is_described() -> None:
    text = _rendered("mailseal.1")
    for entry in build_parser().commands.entries:
        _, _, rest = text.partition(f"\n   {entry.name}\n")
        block = re.split(r"\n   \S|\n[A-Z]", rest)[0]
        for action in entry.parser._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or f"\n       {option}" in block, (
                    entry.name,
                    option,
                )
        assert entry.example in block


def test_every_option_of_the_configuration_is_described_with_its_default() -> None:
    text = _rendered("mailseal.yaml.5")
    for option in OPTIONS:
        section, _, name = option.name.rpartition(".")
        _, _, rest = text.partition(f"\nSECTION {section}\n" if section else "\nOPTIONS OUTSIDE")
        block = rest.partition("\nSECTION ")[0]
        assert re.search(rf"\n       {name}:", block), option.name
        assert f"Takes {option.kind.takes}." in block


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("mailseal-deliver", "delivery/pipe.py"),
        ("mailseal-checkpassword", "login/checkpassword.py"),
    ],
)
def test_options_that_a_program_reads_by_itself_are_those_of_its_page(
    name: str, module: str
) -> None:
    source = (ROOT / "lib/mailseal" / module).read_text().split('"""', 2)[2]
    read = set(re.findall(r'"(--?[a-z][a-z-]*)=?"', source))
    synopsis = _rendered(f"{name}.8").partition("SYNOPSIS\n")[2].partition("\nDESCRIPTION")[0]
    assert read == set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", synopsis))


def _completed(tmp_path: Path, *words: str) -> list[str]:
    script = tmp_path / "mailseal.bash"
    script.write_text(completion.bash())
    run = f'. {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _mailseal; '
    run += 'echo "${COMPREPLY[*]}"'
    done = subprocess.run(
        ["bash", "-c", run, "bash", *words], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    assert _completed(tmp_path, "mailseal", "re") == [
        entry.name for entry in build_parser().commands.entries if entry.name.startswith("re")
    ]
    assert _completed(tmp_path, "mailseal", "-c", "x.yaml", "une") == ["unenroll"]
    assert _completed(tmp_path, "mailseal", "seal", "--dr") == ["--dry-run"]
    assert _completed(tmp_path, "mailseal", "--v") == ["--version"]
    assert _completed(tmp_path, "mailseal", "restore", "key") == []  # then bash completes files


def test_zsh_takes_its_completion(tmp_path: Path) -> None:
    """With zsh's own completion system, which checks the specifications when they are used."""
    (tmp_path / "_mailseal").write_text(completion.zsh())
    script = (
        "zmodload zsh/zpty; zpty z zsh -f -i; "
        f"zpty -w z 'PS1=; fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; "
        "print rea''dy'; zpty -r z text '*ready*'; "
        "zpty -n -w z $'mailseal check-c\\t'; zpty -r z text '*check-config*'; print -r -- $text"
    )
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, timeout=60)
    assert "check-config" in done.stdout, done


def test_make_install_writes_them(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "mailseal.manual", str(tmp_path)],
        env={"PYTHONPATH": str(ROOT / "lib"), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"man1/mailseal.1", "man5/mailseal.yaml.5", "man8/mailseal-lmtp.8"} < found
    assert {"bash/mailseal", "zsh/_mailseal"} < found
