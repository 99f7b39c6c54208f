# SPDX-License-Identifier: MIT
# `make help` lists the targets.

# Lab and demo use Debian's Python, as the hooks do. The tests use .venv, which is made from it.
SHELL := /bin/bash
LAB   := PYTHONPATH=lib:. PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3
VENV  := .venv/bin

.PHONY: help demo lab test check audit bench bench-capacity bench-capacity-sql browser soak soak-index soak-hosts test-stacks deb image test-image clean

help:
	@echo 'make demo     deliver a mail, show the sealed file, read the mail with IMAP and POP3'
	@echo 'make lab      run the same servers, to try a mail client (LAB_USERS=n, LAB_DIR=folder)'
	@echo 'make test     run check, then all tests, with a real Postfix and Dovecot'
	@echo 'make check    check style and types: ruff, mypy'
	@echo 'make audit    crash the servers, search their raw disk for every word of the mail (ARGS=--prove)'
	@echo 'make bench    measure delivery, login and reading; writes build/bench.json, draws build/bench.svg'
	@echo 'make bench-capacity  compare a site of 1,000 users with one of 1,000,000; writes build/capacity.json'
	@echo 'make bench-capacity-sql  the same with the keys in PostgreSQL; writes build/capacity-sql.json'
	@echo 'make browser  use the page for users in a real browser; writes pictures to build/web'
	@echo 'make soak     seal, reseal and unseal 5,000 mails while IMAP clients are active'
	@echo 'make soak-hosts  run several hosts over one database while each part fails in turn (SOAK_SECONDS=600)'
	@echo 'make soak-index  log users in and out at random for ten minutes while servers are killed'
	@echo 'make test-stacks  run the commands of all pages in docs/stacks, and setup on each kind of server'
	@echo 'make install  install below PREFIX=/usr/local, start nothing; make uninstall removes it'
	@echo 'make deb      build/deb/mailseal_*.deb, for Debian 12 and 13'
	@echo 'make image    an OCI image with the key agent and the delivery daemon (BASE=debian:13-slim, IMAGE=mailseal)'
	@echo 'make test-image  run the commands of docs/containers.md with Dovecot 2.3 and 2.4'
	@echo 'make clean    remove files that the other targets have made here, except .venv'

demo:
	@tests/bootstrap lab
	@$(LAB) -m tests.demo

lab:
	@tests/bootstrap lab
	@$(LAB) -m tests.lab

browser:
	@tests/bootstrap browser
	@MAILSEAL_BROWSER=1 $(VENV)/python -m pytest tests/web/test_browser.py

test: check
	@tests/all

check:
	@tests/bootstrap test
	$(VENV)/ruff check lib tests hooks
	$(VENV)/ruff format --check lib tests hooks
	$(VENV)/mypy

audit:
	@tests/bootstrap lab
	@$(LAB) -m tests.audit $(ARGS)

bench:
	@tests/bootstrap bench
	@($(LAB) -m tests.bench); status=$$?; ($(LAB) -m tests.bench.picture build/bench.json) && exit $$status

bench-capacity:
	@tests/bootstrap lab
	@$(LAB) -m tests.bench.capacity

bench-capacity-sql:
	@tests/bootstrap test
	@$(LAB) -m tests.bench.capacity_sql
	@$(LAB) -m tests.bench.database_load

soak:
	@tests/bootstrap test
	@$(LAB) -m tests.e2e.existing

soak-hosts:
	@tests/bootstrap test
	PYTHONPATH=lib:. $(VENV)/python -m tests.e2e.hosts_soak
	SOAK_HOSTS=1 $(VENV)/python -m pytest tests/unit/test_failover.py tests/e2e/test_hosts.py tests/docker/test_database.py tests/docker/test_edge.py tests/docker/test_edge_soak.py

test-stacks:
	@tests/bootstrap test
	MORE_STACKS=1 $(VENV)/python -m pytest tests/docker/test_stacks.py tests/docker/test_more_stacks.py tests/docker/test_mailcow.py tests/docker/test_setup.py tests/docker/test_whole_stay.py

soak-index:
	@tests/bootstrap test
	@$(LAB) -m tests.e2e.index_soak

# Built in a separate folder from the files in git, so that no other files get into the package.
# It needs no compiler, which Debian counts among the built-in dependencies of every build.
deb:
	@tests/bootstrap deb
	@rm -rf build/deb && mkdir -p build/deb/mailseal
	@git ls-files -z >build/deb/files
	@xargs -0 -a build/deb/files cp --parents -p -t build/deb/mailseal
	@cd build/deb/mailseal && dpkg-buildpackage --ignore-builtin-builddeps -us -uc -b >../build.log 2>&1 || { tail -20 ../build.log >&2; exit 1; }
	@ls build/deb/*.deb

# The package is all that docker gets to see, so nothing else of this folder can get into a layer.
BASE  ?= debian:13-slim
IMAGE ?= mailseal
image: deb
	@rm -rf build/image && mkdir -p build/image
	@cp -p build/deb/mailseal_*.deb build/image/mailseal.deb
	@cp -p container/Dockerfile build/image
	docker build -q --build-arg BASE=$(BASE) -t $(IMAGE) build/image

test-image:
	@tests/bootstrap test
	MAILSEAL_CONTAINERS=all $(VENV)/python -m pytest tests/docker/test_containers.py

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find hooks lib tests -name __pycache__ -type d -prune -exec rm -rf {} +

include install.mk
