# SPDX-License-Identifier: MIT
"""Records of mailseal-sealer that are damaged count as missing: the service goes on."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from mailseal.admin.check_results import Check, Checks
from mailseal.admin.seal_jobs import SEALING, Job, Jobs

USER = "alice@example.org"
JOB = Job(USER, SEALING, done=3, total=9, rate=1.5, enrollment=1_700_000_000_000_000_000)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    made = Jobs(str(tmp_path / "sealer"))
    made.prepare()
    made.save(JOB)
    return made


def path(jobs: Jobs) -> Path:
    (name,) = os.listdir(jobs.folder)
    return Path(jobs.folder, name)


def test_what_is_saved_is_loaded(jobs: Jobs, tmp_path: Path) -> None:
    assert jobs.load(USER) == JOB and list(jobs.all()) == [JOB]
    checks = Checks(str(tmp_path / "checks"))
    checks.prepare()
    check = Check(USER, 1_700_000_000, 5, {"changed": 1})
    checks.save(check)
    assert checks.load(USER) == check


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Job)])
@pytest.mark.parametrize(
    "value", [None, "x\n", "\ud800", -1, 10**400, [], {}, True, 1e308], ids=lambda v: repr(v)[:9]
)
def test_a_field_of_another_kind(jobs: Jobs, field: str, value: object) -> None:
    stored = {**dataclasses.asdict(JOB), field: value}
    path(jobs).write_text(json.dumps(stored))
    found = jobs.load(USER)
    assert list(jobs.all()) == ([found] if found else [])
    if found:  # a valid text or number, only another one
        assert type(getattr(found, field)) in (type(getattr(JOB, field)), float)
        json.dumps(found.as_json())
    elif field == "problem":
        assert not isinstance(value, str)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"\0" * 4096, b"{}"])
def test_another_content(jobs: Jobs, data: bytes) -> None:
    path(jobs).write_bytes(data)
    assert jobs.load(USER) is None and list(jobs.all()) == []


def test_something_else_than_a_file(jobs: Jobs) -> None:
    where = path(jobs)
    where.unlink()
    os.mkfifo(where)
    assert jobs.load(USER) is None
    where.unlink()
    where.mkdir()
    assert jobs.load(USER) is None
