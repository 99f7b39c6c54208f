# SPDX-License-Identifier: MIT
"""Run all measurements: a table on stdout, the same in build/bench.json.

python -m tests.bench [ROUNDS [PART...]]    5 rounds and all parts; needs root, Dovecot and Postfix
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from mailseal.crypto.eckeys import PrivateKey
from tests.bench import (
    beside,
    converting,
    delivery,
    listing,
    login,
    oneshot,
    reading,
    recipients,
    verifying,
)
from tests.bench.peers import DovecotPeer, MailsealPeer
from tests.lab.dovecot import installed_version
from tests.lab.place import REPOSITORY, LabError, Place

GOALS = {
    "4 KB": {"dovecot-mail-crypt": 3.0, "dovecot-plain": 1.0},
    "50 KB": {"dovecot-mail-crypt": 2.5, "dovecot-plain": 1.0},
    "1 MB": {"dovecot-mail-crypt": 1.5},
}
"""The wanted ratio of mails per second to the other server."""


def say(line: str) -> None:
    """Print the progress to standard error."""
    print(line, file=sys.stderr, flush=True)


def measure(rounds: int) -> dict[str, Any]:
    """Run all measurements with the same servers."""
    place = Place.make()
    try:
        key = PrivateKey.generate()
        plain = DovecotPeer("dovecot-plain", place, None)
        crypt = DovecotPeer("dovecot-mail-crypt", place, key)
        reader = DovecotPeer("reader", place, key)
        code = place.copy_code()
        seal = MailsealPeer("mailseal", place, code, key, reader)
        bare = MailsealPeer("mailseal-no-secrets-ahead", place, code, key, reader, secrets_ahead=1)
        started = []
        try:
            for peer in (plain, crypt, reader, seal, bare):
                started.append(peer)
                peer.start()
            results: dict[str, Any] = {
                "machine": machine(),
                "one_shot": oneshot.run(seal),
                "delivery": delivery.run([plain, crypt, seal, bare], rounds, say),
                "reading": reading.run(crypt, seal, reader, rounds, say),
                "sealing": converting.run(crypt, key, say),
            }
        finally:
            for peer in started:
                peer.stop()
        return results
    finally:
        place.remove()


def machine() -> dict[str, object]:
    """A description of the machine."""
    done = subprocess.run(["df", "-T", "/tmp"], capture_output=True, text=True)
    return {
        "dovecot": installed_version(),
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "disk": done.stdout.splitlines()[-1].split()[:2],
        "load_before": os.getloadavg()[0],
    }


def table(results: dict[str, Any]) -> str:
    """The table as text."""
    version = results["machine"]["dovecot"]
    lines = [f"mails per second beside Dovecot {version}, 16 sessions, fsync on; medians", ""]
    names = list(next(iter(results["delivery"].values())))
    lines.append(f"{'':8}" + "".join(f"{name:>27}" for name in names))
    for size, rates in results["delivery"].items():
        row = "".join(f"{rates[name]['median']:27.0f}" for name in names)
        lines.append(f"{size:8}{row}")
    lines.append("")
    for size, goals in GOALS.items():
        rates = results["delivery"].get(size)
        for other, goal in goals.items() if rates else ():
            ratio = rates["mailseal"]["median"] / rates[other]["median"]
            lines.append(f"{size:6} mailseal / {other:20} {ratio:5.2f}   wanted {goal:.1f}")
    read = results["reading"]
    ratio = read["dovecot-mail-crypt"]["median"] / read["mailseal"]["median"]
    lines.append(
        f"reading {reading.COUNT} mails: {read['mailseal']['median']:.2f} s, written by mail_crypt "
        f"{read['dovecot-mail-crypt']['median']:.2f} s: {ratio:.2f} times as fast   wanted 1.8"
    )
    rates = results["sealing"]
    ours = rates["mailseal_seal"]
    times, share = ours / rates["doveadm_copy"], ours / rates["cp_and_sync"]
    lines.append(
        f"sealing existing mail: {ours:.0f} mails a second; {times:.2f} times doveadm copy   "
        f"wanted 4.0;  {share:.0%} of cp and sync   wanted 60%"
    )
    one = results["one_shot"]
    lines.append(f"mailseal-deliver: {one['deliver_ms']['median']:.0f} ms a mail   wanted < 40")
    lines.append(f"idle worker: {one['worker_mib']:.0f} MiB   wanted < 40")
    return "\n".join(lines)


def recipients_table(found: dict[str, dict[str, float]]) -> str:
    """The figures of tests.bench.recipients."""
    lines = ["", f"{recipients.RECIPIENTS} different recipients, 4 KB; a lookup that is not cached"]
    for kind, text in recipients.KINDS.items():
        lines.append(f"{text}:")
        plain = found[kind]["plain"]
        for name, rate in found[kind].items():
            server, _, file = name.partition("_")
            wanted = recipients.GOALS.get(server)
            line = f"{name:24} {rate:6.0f} mails a second"
            if wanted:
                line += f", {rate / plain:.2f} of a plain Dovecot   wanted {wanted}"
            if server != "mailseal" and kind == "rates":
                line += f";  lookup {found['lookup_ms'][file or 'plain']:.2f} ms"
            lines.append(line)
    return "\n".join(lines)


def login_table(logins: dict[str, Any]) -> str:
    """The figures of tests.bench.login."""
    lines = ["", "login"]
    for name, figure in logins["figures"].items():
        lines.append(f"{name:44} {figure['value']:9.2f}   wanted < {figure['limit']}")
    return "\n".join(lines)


def beside_table(rates: dict[str, float]) -> str:
    """The figures of tests.bench.beside."""
    delivered = rates["deliveries_beside"] / rates["deliveries_alone"]
    logged_in = rates["login_ms_alone"] / rates["login_ms_beside"]
    return (
        f"\nbeside mailseal-sealer, which seals {rates['sealed_a_second']:.0f} mails a second: "
        f"{delivered:.0%} of the deliveries, {logged_in:.0%} of the logins a second   wanted 90%"
    )


def listing_table(figures: dict[str, float]) -> str:
    """The figures of tests.bench.listing."""
    lines = ["", f"{listing.MAILS} mails, index in an encrypted folder, second login"]
    for name, (text, wanted) in listing.GOALS.items():
        if f"sealed_{name}" not in figures:
            continue
        ours, plain = figures[f"sealed_{name}"], figures[f"plain_{name}"]
        goal = f"   wanted {wanted}" if wanted else ""
        lines.append(f"{text:38} {ours:8.2f} ms, in clear {plain:8.2f}: {ours / plain:.2f}{goal}")
    lines.append(f"memory of an idle user's index: {figures['idle_memory']:.0f} bytes   wanted 0")
    adds = figures["login_locked"] - figures["login_open"]
    lines.append(
        f"a login that unlocks takes {adds:.1f} ms longer   wanted < 5;  the kernel unlocks in "
        f"{figures['unlock']:.2f} ms and locks in {figures['lock']:.1f} ms"
    )
    return "\n".join(lines)


def verify_table(verified: dict[str, dict[str, float]]) -> str:
    """The figures of tests.bench.verifying."""
    lines = ["", f"verify, {verifying.JOBS} processes"]
    for name, wanted in (("without_keys", 10_000), ("with_keys", 2_000)):
        found = verified[name]
        lines.append(
            f"{name.replace('_', ' '):14} {found['mails_a_second']:8.0f} mails a second   wanted "
            f"{wanted};  {found['cpu_ms_a_mail']:.3f} ms of processor time a mail, "
            f"{found['mib_a_process']:.0f} MiB a process   wanted < 120"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Measure, print, write.  A part that cannot be measured here does not stop the others."""
    rounds = int(argv[0]) if argv else 5
    parts: dict[str, tuple[Callable[[], Any], Callable[[Any], str]]] = {
        "recipients": (lambda: recipients.run(min(rounds, 3), say), recipients_table),
        "login": (lambda: login.run(say), login_table),
        "beside": (lambda: beside.run(rounds, say), beside_table),
        "listing": (lambda: listing.run(rounds, say), listing_table),
        "verify": (verifying.run, verify_table),
    }
    status = 0
    try:
        results = measure(rounds)
    except LabError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    print(table(results))
    for name, (run, text) in parts.items():
        if argv[1:] and name not in argv[1:]:
            continue
        try:
            results[name] = run()
            print(text(results[name]), flush=True)
        except LabError as error:
            print(f"bench: error: {name}: {error}", file=sys.stderr)
            status = 1
    os.makedirs(os.path.join(REPOSITORY, "build"), exist_ok=True)
    path = os.path.join(REPOSITORY, "build", "bench.json")
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(results, stream, indent=2)
    print(f"\nwritten to {os.path.relpath(path)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
