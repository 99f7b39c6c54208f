# SPDX-License-Identifier: MIT
"""Checks owners and modes of mailseal's folders and sockets, by what each user may do."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator

from mailseal.admin import access_check
from mailseal.admin.doctor.check import Check, Outcome, failed, warned
from mailseal.admin.doctor.processes import name_of
from mailseal.admin.doctor.site import Site
from mailseal.daemon import user_ids
from mailseal.errors import ConfigError
from mailseal.keys import opening

_NOT_OTHERS = 0o077


def _keys(site: Site) -> Iterator[Outcome]:
    """Folders and files of the keyrings and public keys, and who owns them."""
    config = site.config
    if config.keys.store == opening.FILES:
        if config.dovecot_is_here:
            uid, _ = user_ids(config.agent.user, "agent.user")
            yield from _owned(config.keys_dir, uid, private=True)
            yield from _owned(config.public_dir, uid, private=False)
    else:
        uid, _ = user_ids(config.replica.user, "replica.user")
        yield from _owned(config.public_dir, uid, private=False)


def _owned(folder: str, uid: int, *, private: bool) -> Iterator[Outcome]:
    """The first wrong owner and the first wrong mode below a folder."""
    mode = os.stat(folder).st_mode
    wrong = open_to_others = ""
    for root, _, names in os.walk(folder):
        for path in (root, *(os.path.join(root, name) for name in names)):
            about = os.lstat(path)
            if about.st_uid != uid:
                wrong = wrong or path
            if private and about.st_mode & _NOT_OTHERS and stat.S_ISDIR(about.st_mode):
                open_to_others = open_to_others or path
    if wrong:
        yield failed(
            f"{wrong} belongs to {name_of(os.lstat(wrong).st_uid)}, not to {name_of(uid)}",
            f"run `chown -R {name_of(uid)}:{_name_of_group(_group_of(uid))} {folder}`",
        )
    if open_to_others:
        yield failed(
            f"{open_to_others} is open to other users", f"run `chmod 0700 {open_to_others}`"
        )
    if not private and not mode & stat.S_IXOTH:
        yield failed(
            f"{folder} is closed to Dovecot and mailseal-lmtp: mail of all users is deferred",
            f"run `chmod 0711 {folder}`",
        )


def _group_of(uid: int) -> int:
    return user_ids(str(uid), "uid")[1]


def _memory(site: Site) -> Iterator[Outcome]:
    """The folders for what Dovecot writes in clear: the mail user can, and others cannot read."""
    config = site.config
    if not config.dovecot_is_here or config.delivery.user == config.agent.user:
        return
    folders = {site.dovecot("imap").get("mail_temp_dir")}
    if config.index.cache and os.path.isdir(config.index.cache):
        folders.add(config.index.cache)
    for folder in sorted(folder for folder in folders if folder and "%" not in folder):
        try:
            about = os.stat(folder)
        except FileNotFoundError:
            yield failed(
                f"{folder} does not exist", "run `systemd-tmpfiles --create mailseal.conf`"
            )
            continue
        owners = _owners_of_mail(site)
        closed = [uid for uid in owners if not access_check.may_write(folder, uid)]
        if closed and not _for_all(about.st_mode):
            group = _name_of_group(_group_of(closed[0]))
            yield failed(
                f"{name_of(closed[0])}, who owns mail, cannot write to {folder}: Dovecot cannot "
                "open mailboxes, or puts files elsewhere",
                f"run `chown root:{group} {folder}` and `chmod 0770 {folder}`",
            )
        elif about.st_mode & (stat.S_IROTH | stat.S_IWOTH) and not about.st_mode & stat.S_ISVTX:
            yield failed(
                f"{folder}, with parts of mails in clear, is open to all users",
                f"run `chmod o-rwx {folder}`",
            )


def _owners_of_mail(site: Site) -> set[int]:
    """delivery.user, unless another user owns the mail: then that of the user for test logins."""
    if site.trial is not None:
        return {site.trial.owner}
    if site.config.delivery.user == "mailseal-lmtp":
        return set()  # docs/system-users.md: the users own their mail
    return {user_ids(site.config.delivery.user, "delivery.user")[0]}


def _for_all(mode: int) -> bool:
    """As in docs/system-users.md: a folder for the files of all users, or the way to one."""
    return bool(mode & stat.S_ISVTX and mode & stat.S_IWOTH) or stat.S_IMODE(mode) == 0o711


def _name_of_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _postfix(site: Site) -> Iterator[Outcome]:
    """Whether Postfix may connect to mailseal-lmtp."""
    config = site.config
    try:
        uid, _ = user_ids(config.delivery.postfix_user, "delivery.postfix_user")
    except ConfigError:  # no Postfix on this host
        return
    for path in config.delivery.listen:
        if not path.startswith("/") or not os.path.exists(path):
            continue
        if barrier := access_check.barrier(path, str(uid)):
            yield failed(
                f"Postfix's user {config.delivery.postfix_user} has no access to {barrier}: mail "
                "stays in the queue",
                "set `delivery: {socket_group: postfix}` in mailseal.yaml, then run "
                "`systemctl restart mailseal-lmtp`",
            )
        about = os.stat(path)
        if about.st_mode & stat.S_IWOTH:
            yield warned(
                f"every local user can deliver mail at {path}, without Postfix",
                "set `delivery: {socket_mode: 0660}` in mailseal.yaml, then run "
                "`systemctl restart mailseal-lmtp`",
            )


CHECKS = (
    Check(
        "keys-owner",
        "keyrings and public keys belong to the agent's user, and keyrings are closed to others",
        "run `mailseal init`",
        _keys,
    ),
    Check(
        "memory-folders",
        "the owner of the mail can write to the index cache in memory and to mail_temp_dir",
        "run `systemd-tmpfiles --create mailseal.conf`",
        _memory,
    ),
    Check(
        "lmtp-socket",
        "Postfix, and not every local user, has access to mailseal-lmtp's sockets",
        "run `systemctl restart mailseal-lmtp`",
        _postfix,
    ),
)
