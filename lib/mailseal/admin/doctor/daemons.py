# SPDX-License-Identifier: MIT
"""Checks of mailseal's daemons: they run, as the right users, with the present configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mailseal.admin.doctor import processes
from mailseal.admin.doctor.check import Check, NotUsed, Outcome, failed, passed, warned
from mailseal.admin.doctor.site import Site
from mailseal.config import Config
from mailseal.daemon import user_ids
from mailseal.keys import opening

_SLACK = 0.1
"""Seconds by which a file may be newer than the process that has read it."""


def _agent(site: Site) -> Iterator[Outcome]:
    config = site.config
    if not config.dovecot_is_here:
        raise NotUsed
    found = list(_listens(config, "mailseal-agent", config.agent.socket, "agent.user"))
    yield from found
    if found[0].level != "fail" and not site.agent_answers:
        yield failed(f"mailseal-agent accepts connections at {config.agent.socket}, but hangs")


def _lmtp(site: Site) -> Iterator[Outcome]:
    config = site.config
    for path in config.delivery.listen:
        if path.startswith("/"):
            yield from _listens(config, "mailseal-lmtp", path, "delivery.user")


def _listens(config: Config, program: str, path: str, option: str) -> Iterator[Outcome]:
    section, _, name = option.partition(".")
    user = str(getattr(getattr(config, section), name))
    remedy = f"run `systemctl restart {program}`; its messages: `journalctl -t {program} -n 20`"
    try:
        pid = processes.listener(path)
        uid = processes.uid_of(pid)
        since = processes.started(pid)
    except OSError as exc:
        yield failed(f"{program} does not answer at {path}: {exc.strerror}", remedy)
        return
    if uid != user_ids(user, option)[0]:
        yield failed(f"{program} runs as {processes.name_of(uid)}, but {option} is {user}", remedy)
    elif os.stat(config.path).st_mtime > since + _SLACK:
        yield warned(
            f"{config.path} was changed after {program} had started: it has the older options",
            remedy,
        )
    else:
        yield passed(f"{program} answers at {path}, and runs as {processes.name_of(uid)}")


def _others(site: Site) -> Iterator[Outcome]:
    """Those that only some installations need; each has no socket of its own."""
    config = site.config
    needed = []
    if config.seal.existing == "at-enrollment" or config.verify.at_login or config.web.listen:
        needed.append("mailseal-sealer")
    if config.keys.store != opening.FILES:
        needed.append("mailseal-replica")
    if config.web.listen:
        needed.append("mailseal-web")
    if config.metrics.listen:
        needed.append("mailseal-metrics")
    for program in needed:
        if not any(processes.running(program, config.path)):
            yield failed(
                f"{program} does not run with {config.path}, which has options that need it",
                f"run `systemctl enable --now {program}`",
            )


CHECKS = (
    Check(
        "agent",
        "mailseal-agent answers and runs as agent.user",
        "run `systemctl restart mailseal-agent`",
        _agent,
    ),
    Check(
        "lmtp",
        "mailseal-lmtp answers and runs as delivery.user",
        "run `systemctl restart mailseal-lmtp`",
        _lmtp,
    ),
    Check(
        "other-daemons",
        "mailseal-sealer, -replica, -web and -metrics run where the configuration needs them",
        "run `systemctl status 'mailseal-*'`",
        _others,
    ),
)
