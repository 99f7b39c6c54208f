# SPDX-License-Identifier: MIT
"""Measurements, not tests: `make bench` runs them, and nothing fails because it is slow.

Each module here has `run(place, quick) -> dict` and can be run alone; `python -m tests.bench`
runs all, prints a table and writes build/bench.json.
"""
