# SPDX-License-Identifier: MIT
# `make help` lists the targets.

# Lab and demo run on Debian's own Python, as the hooks do; the tests on .venv, made from it.
SHELL := /bin/bash
LAB   := PYTHONPATH=lib:. PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3
VENV  := .venv/bin

.PHONY: help demo lab test check bench soak clean

help:
	@echo 'make demo     watch a mail come in, lie sealed on disk, and come out again'
	@echo 'make lab      the same stack, to play with a mail client (LAB_USERS=n, LAB_DIR=folder)'
	@echo 'make test     check, then all tests, against real Postfix and Dovecot'
	@echo 'make check    style and types: ruff, mypy'
	@echo 'make bench    measure delivery, login and reading; build/bench.json'
	@echo 'make soak     5,000 mails are sealed, resealed and unsealed while IMAP clients are at work'
	@echo 'make install  put it below PREFIX=/usr/local, start nothing; make uninstall takes it away'
	@echo 'make clean    remove what the others left here, except .venv'

demo:
	@tests/bootstrap lab
	@$(LAB) -m tests.demo

lab:
	@tests/bootstrap lab
	@$(LAB) -m tests.lab

test: check
	@$(VENV)/python -m pytest

check:
	@tests/bootstrap test
	$(VENV)/ruff check lib tests hooks
	$(VENV)/ruff format --check lib tests hooks
	$(VENV)/mypy

bench:
	@tests/bootstrap lab
	@$(LAB) -m tests.bench

soak:
	@tests/bootstrap test
	@$(LAB) -m tests.e2e.existing

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find hooks lib tests -name __pycache__ -type d -prune -exec rm -rf {} +

include install.mk
