# SPDX-License-Identifier: MIT
"""The links in the documentation exist: files, and the tests in docs/tested.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docker import native

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("postfix-conf/*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_tests_named_in_tested_md_exist() -> None:
    named = 0
    for row in (ROOT / "docs" / "tested.md").read_text().splitlines():
        file = ""
        for path, function in re.findall(r"`([\w/]*\.py)?(?:::(\w+)(?:\[[^\]]*\])?)?`", row):
            file = path or file
            if not file:
                continue
            where = ROOT / (file if "/" in file else f"tests/docker/{file}")
            assert where.exists(), file
            made = rf"^ *(async def|def|class) {function}\b"
            assert not function or re.search(made, where.read_text(), re.M), f"{file}::{function}"
            named += 1
    assert named > 50


def test_tested_md_names_for_debian_13_only_what_runs_there() -> None:
    """This machine is taken for Debian 12: the table has a column for each."""
    named = 0
    for row in (ROOT / "docs" / "tested.md").read_text().splitlines():
        if row.count(" | ") != 2 or " on Debian 13" not in row:
            continue
        for path in re.findall(r"`(tests/[\w/.]+)`", row.rpartition(" | ")[2]):
            assert any(path == run or path.startswith(f"{run}/") for run in native.RUNS), path
            named += 1
    assert named > 50


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/design.md"])
def test_files_named_in_these_pages_exist(page: str) -> None:
    for name in re.findall(
        r"`((?:lib|tests|hooks|docs|dovecot-conf)/[\w./-]+)`", (ROOT / page).read_text()
    ):
        assert (ROOT / name).exists(), name
