# SPDX-License-Identifier: MIT
"""Full-text search in a lab: the shipped fts.conf, and its options in mailseal.yaml."""

from __future__ import annotations

import os
from typing import Any

from tests.lab.dovecot import Dovecot, series, snippet

_PLUGINS = {"2.3": "lib21_fts_xapian_plugin.so", "2.4": "lib21_fts_flatcurve_plugin.so"}
_PACKAGES = {"2.3": "dovecot-fts-xapian", "2.4": "dovecot-flatcurve"}


def missing(version: str) -> str:
    """The package that is needed; "" if it is installed."""
    path = os.path.join("/usr/lib/dovecot/modules", _PLUGINS[series(version)])
    return "" if os.path.exists(path) else _PACKAGES[series(version)]


def configuration(dovecot: Dovecot) -> str:
    """The shipped file; the lab's agent has a uid without a name and a group."""
    text = snippet(dovecot.version, "fts", dovecot.wanted.places)
    return text.replace("mode = 0660\n    group = mailseal\n", "mode = 0777\n")


def options(dovecot: Dovecot) -> dict[str, Any]:
    """Options for mailseal.yaml, in addition to index.folder."""
    return {
        "agent.indexer_socket": dovecot.wanted.place.quick_path("indexer.sock"),
        "dovecot.indexer_socket": os.path.join(dovecot.wanted.base_dir, "indexer"),
    }
