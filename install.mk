# SPDX-License-Identifier: MIT
# make install, make uninstall: included by the Makefile; it also works alone, with `make -f install.mk`.
#
#   PREFIX      where to install (/usr/local)
#   DESTDIR     prepended to each path, for packagers
#   MAIL_USER   the user that owns the mail store (vmail); delivery.user in mailseal.yaml
#   MAIL_GROUP  its group (default: of the same name)
#
# install starts nothing and changes no configuration. uninstall does not remove /etc/mailseal and
# /var/lib/mailseal: without the keyrings nobody can read the sealed mail.

PREFIX ?= /usr/local
MAIL_USER ?= vmail
MAIL_GROUP ?= $(MAIL_USER)

LIBDIR = $(PREFIX)/lib/mailseal
SHAREDIR = $(PREFIX)/share/mailseal
MANDIR = $(PREFIX)/share/man
BASHDIR = $(PREFIX)/share/bash-completion/completions
# Debian's zsh reads vendor-completions of packages, and site-functions below /usr/local.
ZSHDIR = $(PREFIX)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
UNITDIR = $(PREFIX)/lib/systemd/system
SYSUSERSDIR = $(PREFIX)/lib/sysusers.d
TMPFILESDIR = $(PREFIX)/lib/tmpfiles.d
SYSCTLDIR = $(PREFIX)/lib/sysctl.d

# Commands for administrators, and for .forward files and master.cf.
COMMANDS = mailseal $(notdir $(wildcard hooks/mailseal-deliver hooks/mailseal-set-hash))

# Replaces /usr/lib/mailseal and vmail in the files by the paths and names of this installation.
FIT = sed -e 's|/usr/lib/mailseal/dovecot-conf|$(SHAREDIR)/dovecot-conf|g' \
	-e 's|/usr/lib/mailseal|$(LIBDIR)|g' -e 's|@PREFIX@|$(PREFIX)|g' \
	-e 's|@MAIL_GROUP@|$(MAIL_GROUP)|g' \
	-e 's/\<gid\( *= *\)vmail\>/gid\1$(MAIL_GROUP)/g' \
	-e 's/\<\(user\|uid\)\( *= *\)vmail\>/\1\2$(MAIL_USER)/g'

PACKAGE_FILES = $(shell cd lib && find mailseal -type f ! -name '*.pyc' | LC_ALL=C sort)
PANEL_FILES = $(shell cd hooks/panels && find . -type f | LC_ALL=C sort)
TEXT_FILES = $(shell find dovecot-conf postfix-conf web-conf docs -type f | LC_ALL=C sort)
UNITS = mailseal-agent.service mailseal-lmtp.service mailseal-sealer.service mailseal-replica.service \
	mailseal-web.service mailseal-metrics.service

.PHONY: install uninstall

install:
	@set -e; for file in $(PACKAGE_FILES); do \
		install -D -m 644 "lib/$$file" "$(DESTDIR)$(LIBDIR)/lib/$$file"; done
	install -d "$(DESTDIR)$(LIBDIR)/hooks" "$(DESTDIR)$(PREFIX)/bin"
	install -m 755 hooks/mailseal* "$(DESTDIR)$(LIBDIR)/hooks"
	/usr/bin/python3 -m compileall -q -s "$(DESTDIR)" "$(DESTDIR)$(LIBDIR)/lib"
	@set -e; for name in $(COMMANDS); do \
		ln -sf "$(LIBDIR)/hooks/$$name" "$(DESTDIR)$(PREFIX)/bin/$$name"; done
	@set -e; for file in $(PANEL_FILES); do \
		install -d "$(DESTDIR)$(SHAREDIR)/panels/$$(dirname "$$file")"; \
		sed -e 's|/usr/local/bin|$(PREFIX)/bin|g' "hooks/panels/$$file" \
			> "$(DESTDIR)$(SHAREDIR)/panels/$$file"; \
		chmod 644 "$(DESTDIR)$(SHAREDIR)/panels/$$file"; done
	@set -e; for file in $(TEXT_FILES); do \
		install -d "$(DESTDIR)$(SHAREDIR)/$$(dirname "$$file")"; \
		$(FIT) "$$file" > "$(DESTDIR)$(SHAREDIR)/$$file"; \
		chmod 644 "$(DESTDIR)$(SHAREDIR)/$$file"; done
	@set -e; made=$$(mktemp -d); trap 'rm -rf "$$made"' EXIT; \
	PYTHONPATH=lib PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m mailseal.manual "$$made"; \
	for page in "$$made"/man?/*; do \
		install -D -m 644 "$$page" "$(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/}"; done; \
	install -D -m 644 "$$made/bash/mailseal" "$(DESTDIR)$(BASHDIR)/mailseal"; \
	install -D -m 644 "$$made/zsh/_mailseal" "$(DESTDIR)$(ZSHDIR)/_mailseal"
	install -d "$(DESTDIR)$(UNITDIR)" "$(DESTDIR)$(SYSUSERSDIR)" "$(DESTDIR)$(TMPFILESDIR)" \
		"$(DESTDIR)$(SYSCTLDIR)"
	install -m 644 systemd/mailseal.sysctl "$(DESTDIR)$(SYSCTLDIR)/mailseal.conf"
	@set -e; for unit in $(UNITS); do \
		$(FIT) "systemd/$$unit" > "$(DESTDIR)$(UNITDIR)/$$unit"; \
		chmod 644 "$(DESTDIR)$(UNITDIR)/$$unit"; done
	$(FIT) systemd/mailseal.sysusers > "$(DESTDIR)$(SYSUSERSDIR)/mailseal.conf"
	$(FIT) systemd/mailseal-web.sysusers > "$(DESTDIR)$(SYSUSERSDIR)/mailseal-web.conf"
	$(FIT) systemd/mailseal-metrics.sysusers > "$(DESTDIR)$(SYSUSERSDIR)/mailseal-metrics.conf"
	$(FIT) systemd/mailseal.tmpfiles > "$(DESTDIR)$(TMPFILESDIR)/mailseal.conf"
	chmod 644 "$(DESTDIR)$(SYSUSERSDIR)"/mailseal*.conf
	chmod 644 "$(DESTDIR)$(TMPFILESDIR)/mailseal.conf"

uninstall:
	rm -rf "$(DESTDIR)$(LIBDIR)" "$(DESTDIR)$(SHAREDIR)"
	rm -f $(foreach name,mailseal mailseal-deliver mailseal-set-hash,"$(DESTDIR)$(PREFIX)/bin/$(name)")
	rm -f "$(DESTDIR)$(MANDIR)"/man[158]/mailseal[.-]*
	rm -f "$(DESTDIR)$(BASHDIR)/mailseal" "$(DESTDIR)$(ZSHDIR)/_mailseal"
	rm -f $(foreach unit,$(UNITS),"$(DESTDIR)$(UNITDIR)/$(unit)")
	rm -f $(foreach name,mailseal mailseal-web mailseal-metrics,"$(DESTDIR)$(SYSUSERSDIR)/$(name).conf")
	rm -f "$(DESTDIR)$(TMPFILESDIR)/mailseal.conf"
	rm -f "$(DESTDIR)$(SYSCTLDIR)/mailseal.conf"
	@echo "not removed: /etc/mailseal, and /var/lib/mailseal with the keyrings"
