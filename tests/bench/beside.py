# SPDX-License-Identifier: MIT
"""Deliveries and logins while mailseal-sealer works, compared with those while it does not.

The sealer runs with the priorities of its unit.  Signals stop and continue it, so that both
measurements take turns every few seconds and other work on the machine affects both.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

from mailseal.mailbox.maildir import create
from tests.bench import delivery
from tests.bench.login import login_ms
from tests.bench.peers import PASSWORD, USER
from tests.lab import Lab
from tests.lab.place import MAIL_UID, LabError

OLD = 20
"""Users with old mail."""
MAILS = 1_000
"""Of each."""
DELIVERIES = 2_000
LOGINS = 60
_PATIENCE = 60
"""Seconds."""
_AS_ITS_UNIT = ("chrt", "--idle", "0", "ionice", "-c", "3", "nice", "-n", "19")


def run(rounds: int, say: Callable[[str], None]) -> dict[str, float]:
    """Deliveries per second, milliseconds for a login, both with and without; mails sealed."""
    names = [f"old{number}@example.org" for number in range(OLD)]
    with Lab(
        {USER: PASSWORD},
        auth="behind-passwd-file",
        plain_users=dict.fromkeys(names, PASSWORD),
        config_extra={"seal.existing": "at-enrollment"},
    ) as lab:
        for name in names:
            _fill(lab, name)
        lab.mailseal("init")
        for name in names:
            lab.mailseal("enroll", name, "--stdin", stdin=PASSWORD.encode() + b"\n")
        delivery.settle()
        with _sealer(lab) as group:
            return _measured(lab, group, names, rounds, say)


def _measured(
    lab: Lab, group: int, names: list[str], rounds: int, say: Callable[[str], None]
) -> dict[str, float]:
    rates: dict[bool, list[float]] = {False: [], True: []}
    times: dict[bool, list[float]] = {False: [], True: []}
    done, worked = 0, 0.0
    for number, beside in itertools.product(range(rounds), (True, False)):
        beside ^= bool(number % 2)
        os.killpg(group, signal.SIGCONT if beside else signal.SIGSTOP)
        before, began = _sealed(lab, names), time.monotonic()
        time.sleep(1)
        while beside and _sealed(lab, names) == before:
            if time.monotonic() > began + _PATIENCE:
                raise LabError("mailseal-sealer seals nothing")
            time.sleep(0.1)
        rates[beside].append(_deliveries(lab))
        for _ in range(LOGINS):
            times[beside].append(login_ms((lab.imap, USER, PASSWORD)))
            time.sleep(0.02)
        if beside:
            done += _sealed(lab, names) - before
            worked += time.monotonic() - began
        say(f"beside={beside}: {rates[beside][-1]:.0f} deliveries a second")
    return {
        "deliveries_alone": statistics.median(rates[False]),
        "deliveries_beside": statistics.median(rates[True]),
        "login_ms_alone": statistics.median(times[False]),
        "login_ms_beside": statistics.median(times[True]),
        "sealed_a_second": done / worked,
    }


def _deliveries(lab: Lab) -> float:
    began = time.monotonic()
    delivery.send(lab.lmtp_socket, 4096, DELIVERIES)
    return DELIVERIES / (time.monotonic() - began)


def _fill(lab: Lab, name: str) -> None:
    root = lab.maildir(name)
    os.makedirs(os.path.dirname(root))
    create(root)
    mail = b"Subject: old\n\n" + b"x" * 63 * 150 + b"\n"
    for number in range(MAILS):
        sizes = f"S={len(mail)},W={len(mail) + mail.count(10)}"
        with open(f"{root}/cur/{1_600_000_000 + number}.M1P1.bench,{sizes}:2,S", "wb") as stream:
            stream.write(mail)
    above = os.path.dirname(lab.home(name))
    subprocess.run(["chown", "-R", f"{MAIL_UID}:{MAIL_UID}", above], check=True)


@contextlib.contextmanager
def _sealer(lab: Lab) -> Iterator[int]:
    """Its process group."""
    command = [*_AS_ITS_UNIT, os.path.join(lab.hooks, "mailseal-sealer"), "-c", lab.config_path]
    with (
        open(lab.place.path("log", "sealer.log"), "ab") as log,
        subprocess.Popen(command, stderr=log, process_group=0) as process,
    ):
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            process.terminate()


def _sealed(lab: Lab, names: list[str]) -> int:
    """Sealed mails are larger by a header; cheap, so that it does not disturb."""
    return sum(_sealed_of(lab.maildir(name)) for name in names)


def _sealed_of(root: str) -> int:
    with os.scandir(f"{root}/cur") as entries:
        return sum(
            entry.stat().st_size > int(entry.name.split("S=")[1].split(",")[0]) for entry in entries
        )
