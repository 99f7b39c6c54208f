# SPDX-License-Identifier: MIT
"""Draws build/bench.json: how many times as fast as Dovecot alone, and what a login takes longer.

python3 -m tests.bench.picture [-o build/bench.svg] BENCH.JSON...

One file for each version of Dovecot; their bars are side by side.  Needs Debian's
python3-matplotlib (`tests/bootstrap bench`).  The picture has a white background, so that it can be
read on a dark page too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

ALONE, CRYPT = "dovecot-plain", "dovecot-mail-crypt"
_COLOURS = ("#2c662c", "#8fb98f")
_WANTED, _ONE, _TEXT = "#b3261e", "#444444", "#222222"
_BAR, _LABELS = 0.36, 3.9
"""Width of a row for one version, of all of 1; inches for the texts."""
_MANY = {
    "rates": ("2,000 recipients", "2,000 not enrolled"),
    "rates_in_use": ("2,000 mailboxes in use", "2,000 mailboxes in use"),
}
"""tests.bench.recipients: the recipients of mailseal-lmtp and of Dovecot's LMTP."""


class Bar(NamedTuple):
    """One figure; wanted is None if there is no goal."""

    label: str
    value: float
    wanted: float | None


def speeds(found: dict[str, Any]) -> list[Bar]:
    """How many times as fast as Dovecot: more is better."""
    bars = []
    goals: dict[str, dict[str, float | None]] = {
        "4 KB": {ALONE: 1.0, CRYPT: 3.0},
        "50 KB": {ALONE: 1.0, CRYPT: 2.5},
        "1 MB": {ALONE: None, CRYPT: 1.5},
    }
    delivery = found["delivery"]
    for size, wanted in goals.items():
        rates = {name: rate["median"] for name, rate in delivery[size].items()}
        for other, goal in wanted.items():
            than = "with mail_crypt" if other == CRYPT else "in clear"
            label = f"mailseal-lmtp, {size}, beside LMTP {than}"
            bars.append(Bar(label, rates["mailseal"] / rates[other], goal))
    rates = {name: rate["median"] for name, rate in delivery["4 KB"].items()}
    steady = rates["mailseal-no-secrets-ahead"] / rates[ALONE]
    bars.append(Bar("mailseal-lmtp, 4 KB, nothing made in advance", steady, 1.0))
    for kind, (ours, theirs) in _MANY.items():
        rates = found["recipients"].get(kind, {})
        for name in rates:
            server, _, how = name.partition("_")
            how = {"lua": "Lua"}.get(how, how)
            ratio = rates[name] / rates["plain"]
            if server == "mailseal":
                bars.append(Bar(f"mailseal-lmtp, {ours}, {how}", ratio, 1.2))
            elif server == "dovecot":
                bars.append(Bar(f"Dovecot's LMTP, {theirs}, {how}", ratio, 0.95))
    reading = found["reading"]
    ratio = reading[CRYPT]["median"] / reading["mailseal"]["median"]
    bars.append(Bar("IMAP reads mail, beside mail_crypt's own", ratio, 1.8))
    sealing = found["sealing"]
    ratio = sealing["mailseal_seal"] / sealing["doveadm_copy"]
    bars.append(Bar("mailseal seal, beside doveadm copy", ratio, 4.0))
    return bars


def logins(found: dict[str, Any]) -> list[Bar]:
    """How much longer a login takes than in a Dovecot that loads mail_crypt: less is better."""
    names = {
        "not_enrolled_login_added_lua_ms": "not enrolled, Lua",
        "repeated_login_added_lua_ms": "enrolled, session in the agent, Lua",
        "repeated_login_added_ms": "the same, checkpassword",
    }
    figures = found["login"]["figures"]
    return [
        Bar(label, figures[name]["value"], figures[name]["limit"])
        for name, label in names.items()
        if name in figures
    ]


def draw(results: Sequence[dict[str, Any]], path: str) -> None:
    """Write the picture as SVG."""
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("svg")
    # The same figures give the same file; texts stay texts.
    matplotlib.rcParams.update(
        {"svg.hashsalt": "mailseal", "svg.fonttype": "none", "text.color": _TEXT, "font.size": 10}
    )
    from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

    versions = [found["machine"]["dovecot"] for found in results]
    parts = [
        ("Times as fast as Dovecot alone (more is better)", [speeds(found) for found in results]),
        (
            "A login takes longer than with mail_crypt alone: milliseconds (less is better)",
            [logins(found) for found in results],
        ),
    ]
    heights = [max(len(bars) for bars in columns) + 1 for _, columns in parts]
    figure, axes = pyplot.subplots(
        2, 1, figsize=(9.2, 0.36 * sum(heights) + 1.2), gridspec_kw={"height_ratios": heights}
    )
    for axis, (title, columns) in zip(axes, parts, strict=True):
        _part(axis, title, columns)
    axes[0].axvline(1, color=_ONE, linewidth=0.8, linestyle=":")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=_COLOURS[n]) for n in range(len(versions))]
    handles.append(pyplot.Line2D([], [], color=_WANTED, linewidth=2))
    figure.legend(
        handles,
        [*(f"mailseal with Dovecot {version}" for version in versions), "wanted"],
        loc="upper center",
        ncol=len(handles),
        frameon=False,
    )
    figure.subplots_adjust(
        left=_LABELS / 9.2,
        right=0.95,
        top=1 - 0.75 / figure.get_figheight(),
        bottom=0.05,
        hspace=0.3,
    )
    figure.savefig(path, facecolor="white", metadata={"Date": None, "Title": "mailseal's speed"})
    pyplot.close(figure)


def _part(axis: Any, title: str, columns: Sequence[list[Bar]]) -> None:
    labels = list(dict.fromkeys(bar.label for bars in columns for bar in bars))
    rows = {label: number for number, label in enumerate(labels)}
    size = _BAR if len(columns) > 1 else 2 * _BAR
    widest = max(bar.value for bars in columns for bar in bars)
    for number, bars in enumerate(columns):
        shift = (number - (len(columns) - 1) / 2) * size
        for bar in bars:
            at = rows[bar.label] + shift
            axis.barh(at, bar.value, size, color=_COLOURS[number])
            end = max(bar.value, 0)
            if bar.wanted is not None and end < bar.wanted < end + widest / 8:
                end = bar.wanted  # not under the number
            axis.annotate(
                f"{bar.value:.2f}",
                (end, at),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            if bar.wanted is not None:
                middle = rows[bar.label]
                axis.plot([bar.wanted] * 2, [middle - 0.45, middle + 0.45], color=_WANTED, lw=2)
    axis.set_yticks(list(rows.values()), labels)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=10, loc="left", x=-0.74, fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.08, y=0.02)


def main(argv: list[str]) -> int:
    """Read the files, write the picture."""
    parser = argparse.ArgumentParser(prog="tests.bench.picture")
    parser.add_argument("-o", default="build/bench.svg", metavar="SVG")
    parser.add_argument("files", nargs="+", metavar="BENCH.JSON")
    wanted = parser.parse_args(argv)
    results = []
    for name in wanted.files:
        with open(name, encoding="utf-8") as stream:
            results.append(json.load(stream))
    draw(results, wanted.o)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
