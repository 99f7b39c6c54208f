# SPDX-License-Identifier: MIT
"""Builds and starts the servers in containers, and installs mailseal as in docs/install.md."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.docker import tally
from tests.docker.native import Native
from tests.docker.packages import newer, package  # noqa: F401 - fixtures
from tests.docker.site import NAMES, Site
from tests.lab.dovecot import installed_version, series
from tests.lab.place import REPOSITORY, LabError
from tests.lab.process import interrupt_on_signals

_HERE = os.path.join(REPOSITORY, "tests", "docker")
SUITES = {"2.3": "bookworm", "2.4": "trixie"}
NO_ENGINE = "no Docker engine answers: tests/docker/engine start"


def other() -> str:
    """The version that this machine does not have: tests/e2e runs on it in a container."""
    try:
        return "2.3" if series(installed_version()) == "2.4" else "2.4"
    except LabError:
        return "2.4"


def pytest_sessionstart() -> None:
    # Otherwise SIGTERM ends Python at once, and the containers are left.
    interrupt_on_signals()


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Skips the tests in containers if docker is not available; fails if CI requires them."""
    if subprocess.run([os.path.join(_HERE, "engine"), "answers"]).returncode == 0:
        return
    if os.environ.get("MAILSEAL_DOCKER") == "required":
        pytest.fail(NO_ENGINE)
    pytest.skip(NO_ENGINE)


@pytest.fixture(scope="session")
def images(engine: None) -> None:
    """Build the needed parts of tests/docker/Dockerfile; with a cache this takes a second."""
    for suite in SUITES.values():
        subprocess.run([os.path.join(_HERE, "base-image"), suite], check=True)
    wanted = [(target, suite) for suite in SUITES.values() for target in ("stack", "kinds")]
    wanted.append(("machine", SUITES[other()]))
    for target, suite in wanted:
        command = ["docker", "build", "-q", "--build-arg", f"SUITE={suite}", "--target", target]
        tag = f"mailseal-{target}:{suite}"
        done = subprocess.run([*command, "-t", tag, _HERE], capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"docker build of {tag} failed: {(done.stdout + done.stderr)[-3000:]}")


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True)
    return "docker compose" if plugin.returncode == 0 else "docker-compose"


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return os.path.join(_HERE, "compose.yaml")


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return f"mailseal-{os.getpid()}"


@pytest.fixture(scope="session")
def docker_setup(images: None) -> list[str]:
    os.environ["MAILSEAL_REPOSITORY"] = REPOSITORY
    # Of docker-compose, in seconds.  Nine containers start at the same time.
    os.environ["COMPOSE_HTTP_TIMEOUT"] = "600"
    os.environ["MAILSEAL_OTHER"] = SUITES[other()]
    return ["up -d"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down -v -t 5"]


@pytest.fixture(scope="session")
def hosts(docker_services: Any) -> Iterator[dict[str, Site]]:
    """All running containers by service name, without mailseal."""
    made = {}
    for version in SUITES:
        for kind in ("mail", "mx", "imap", "kinds"):
            service = kind + version.replace(".", "")
            container = docker_services._docker_compose.execute(f"ps -q {service}")

            def port(inside: int, service: str = service) -> int:
                found: int = docker_services.port_for(service, inside)
                return found

            made[service] = Site(version, container.decode().split()[-1], port)
    container = docker_services._docker_compose.execute("ps -q other")
    made["other"] = Site(other(), container.decode().split()[-1], lambda inside: inside)
    for site in made.values():
        site.wait_booted()
    yield made


@pytest.fixture(scope="session", autouse=True)
def native(request: pytest.FixtureRequest, engine: None) -> Iterator[Native | None]:
    """The tests on the other Debian, started at once; they run in parallel to the other tests.

    None if test_native.py was not selected.
    """
    if not any("test_native.py" in item.nodeid for item in request.session.items):
        yield None
        return
    began = Native(request.getfixturevalue("hosts")["other"])
    yield began
    began.stop()


@pytest.fixture(scope="session")
def sites(hosts: dict[str, Site]) -> dict[str, Site]:
    """The mail hosts by version, with mailseal; all users but carol are enrolled."""
    found = {version: hosts["mail" + version.replace(".", "")] for version in SUITES}
    for site in found.values():
        site.install()
        for name in NAMES:
            if name != "carol":
                site.enroll(name)
    return found


@pytest.fixture(params=list(SUITES))
def site(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    """The mail host of each version in turn."""
    return sites[request.param]


# In this order: the tests that remove mailseal are the last ones.
# These take long. `make soak-hosts` runs the first three, which install PostgreSQL, and
# `make test-stacks` the others.
_HOSTS = ["test_database.py", "test_edge.py", "test_edge_soak.py"]
_MORE = ["test_more_stacks.py", "test_mailcow.py", "test_setup.py", "test_whole_stay.py"]
collect_ignore = [] if os.environ.get("SOAK_HOSTS") else _HOSTS
collect_ignore += [] if os.environ.get("MORE_STACKS") else _MORE

_ORDER = (
    *("database", "edge", "edge_soak"),
    *("mail", "search", "services", "monitoring", "panel_programs", "sealer", "web"),
    *("debug_logs", "two_hosts", "kinds", "stacks", "more_stacks", "mailcow", "setup"),
    *("whole_stay", "package", "package_upgrade", "containers", "upgrade"),
    *("install", "leaving", "native"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests; the result of the parallel run in a container is checked last."""
    ours = [item for item in items if item.nodeid.startswith("tests/docker/")]
    places = iter(sorted(items.index(item) for item in ours))
    for item in sorted(ours, key=lambda item: _ORDER.index(item.path.stem.removeprefix("test_"))):
        items[next(places)] = item
    items.sort(key=lambda item: item in ours and item.path.stem == "test_native")


_told: list[str] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Count the tests on each version, or note that the containers were skipped."""
    skipped = any(
        report.nodeid.startswith("tests/docker/")
        for report in terminalreporter.stats.get("skipped", [])
    )
    passed = [
        report.nodeid
        for report in terminalreporter.stats.get("passed", [])
        if report.when == "call"
    ]
    _told[:] = tally.lines(passed, f"containers SKIPPED: {NO_ENGINE}" if skipped else None)
    os.makedirs(os.path.dirname(tally.PATH), exist_ok=True)
    with open(tally.PATH, "w", encoding="utf-8") as stream:
        stream.write("\n".join(_told) + "\n")


def pytest_unconfigure() -> None:
    """Print it at the end, where it is seen."""
    for line in _told:
        sys.stdout.write(f"{line}\n")
