# SPDX-License-Identifier: MIT
"""What check-config says about where and in which format Dovecot stores mail."""

from __future__ import annotations

import pytest

from mailseal.admin.finding import ERROR, WARNING
from tests.unit.dovecot_check.settings import VERSION, Check, only_24


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ("mail_location = maildir:~/Maildir:INDEXCACHE=/run/cache/%u", True),
        ("mail_location = maildir:%h/Maildir:INDEXCACHE=/c/%u", True),
        ("mail_location = mbox:~/mail:INBOX=/var/mail/%u:INDEXCACHE=/c/%u", False),
        ("mail_location = mdbox:~/mdbox:INDEXCACHE=/c/%u", False),
        ("mail_location = sdbox:~/sdbox:INDEXCACHE=/c/%u", False),
        ("mail_location = maildir:~/Maildir:INBOX=~/In:INDEXCACHE=/c/%u", False),
        ("mail_location = maildir:~/Maildir:LAYOUT=fs:INDEXCACHE=/c/%u", False),
        ("mail_location = maildir:/m/%1n/%n:INDEXCACHE=/c/%u", True),  # only Dovecot can expand it
        ("namespace inbox {\n  location = maildir:~/N\n}", False),
        ("namespace old {\n  location = maildir:~/N\n  prefix = old.\n}", True),
    ]
    if VERSION == "2.3"
    else [
        ("mail_path = %{home}/Maildir", True),
        ("mailbox_list_layout = fs", True),
        ("mailbox_list_layout = index", False),
        ("mail_inbox_path = /var/mail/%{user}", False),
        ("mail_inbox_path = ~/Maildir", True),
        ("mail_driver = mbox\nmail_path = ~/mail", False),
        ("mail_driver = mdbox\nmail_path = ~/mdbox", False),
        ("mail_driver = sdbox\nmail_path = ~/sdbox", False),
        ("namespace inbox {\n  mail_path = ~/N\n}", False),
    ],
)
def test_the_mail_location(check: Check, settings: str, same: bool) -> None:
    found = check(f"{settings}\n")
    located = [level for level, text in found if "delivery.maildir ~/Maildir" in text]
    assert located == ([] if same else [WARNING])
    # mail_crypt does not seal mbox, which is another error.
    others = [level for level, text in found if "delivery.maildir ~/Maildir" not in text]
    assert others == ([ERROR] if "mbox" in settings.partition("\n")[0] else [])


def test_a_namespace_in_a_format_that_is_not_sealed(check: Check) -> None:
    place = {
        "2.3": "location = mbox:~/archive",
        "2.4": "mail_driver = mbox\n  mail_path = ~/archive",
    }[VERSION]
    text = f"namespace archive {{\n  separator = /\n  prefix = Archive/\n  {place}\n}}\n"
    separator = "namespace inbox {\n  separator = /\n}\n"
    (found,) = check(separator + text)
    assert found[0] == ERROR and "'Archive/'" in found[1] and "cannot seal" in found[1]
    assert check(separator + text.replace("mbox", "maildir")) == []


def test_attachments_in_files_of_their_own(check: Check) -> None:
    name = {"2.3": "mail_attachment_dir", "2.4": "mail_ext_attachment_path"}[VERSION]
    apart = f"{name} = ~/apart\n"
    assert check(apart) == []  # a Maildir has none
    mdbox = {
        "2.3": "mail_location = mdbox:~/mdbox:INDEXCACHE=/c/%u\n",
        "2.4": "mail_driver = mdbox\nmail_path = ~/mdbox\n",
    }[VERSION]
    found = [text for level, text in check(mdbox + apart) if level == ERROR]
    assert len(found) == 1 and f"remove {name}" in found[0]


@only_24
@pytest.mark.parametrize("block", ["", "namespace inbox {\n  "])
def test_an_inbox_path_that_is_set_but_empty(check: Check, block: str) -> None:
    ((level, text),) = check(f"{block}mail_inbox_path =\n{'}' if block else ''}\n")
    assert level == ERROR and "INBOX in /home/user/Maildir/.INBOX" in text
    assert check(f"{block}mail_inbox_path = ~/Maildir\n{'}' if block else ''}\n") == []


def test_the_same_location_is_accepted(check: Check) -> None:
    settings = {
        "2.3": "mail_location = maildir:/m/%d/%n:INDEXCACHE=/c/%u\n",
        "2.4": "mail_path = /m/%{user | domain}/%{user | username}\n",
    }[VERSION]
    assert len(check(settings)) == 1
    assert check(settings, maildir="/m/%d/%n") == []
