# SPDX-License-Identifier: MIT
"""Delivery in this process, with a template user database, enrolled users and mails."""

from __future__ import annotations

import os
from typing import Any

import yaml

from mailseal import config as configuration
from mailseal.config import Config
from mailseal.crypto.dcrypt import open_sealed
from mailseal.crypto.eckeys import PrivateKey
from mailseal.delivery.group import SealJob, Store, make_store, seal_group
from mailseal.delivery.lmtp.syntax import Address
from mailseal.delivery.message import Envelope, Message
from mailseal.delivery.route import Router
from mailseal.keys.public import PublicStore


class Here:
    """All parts that delivery needs, below one folder, without a daemon."""

    def __init__(self, folder: str, **delivery: Any) -> None:
        self.dir = folder
        self.public = PublicStore(os.path.join(folder, "state", "public"))
        os.makedirs(os.path.join(folder, "state"))
        self.public.prepare()
        self.keys: dict[str, PrivateKey] = {}
        self.config = self.configure(**delivery)

    def configure(self, **delivery: Any) -> Config:
        values = {
            "state_dir": os.path.join(self.dir, "state"),
            "log": {"to": os.path.join(self.dir, "log")},
            "delivery": {
                "userdb": "template",
                "home": os.path.join(self.dir, "homes", "%d", "%n"),
                "user": os.geteuid(),
                **delivery,
            },
        }
        return configuration.parse(yaml.safe_dump(values))

    def add_user(self, user: str) -> str:
        local, _, domain = user.partition("@")
        home = os.path.join(self.dir, "homes", domain, local)
        os.makedirs(home, exist_ok=True)
        return home

    def enroll(self, user: str) -> str:
        key = self.keys[user] = PrivateKey.generate()
        self.public.publish(user, key.public)
        return self.add_user(user)

    def store(self) -> Store:
        return make_store(self.config, Router(self.config), 0)

    def jobs(self, *addresses: str, body: bytes = b"Subject: x\r\n\r\ntext\r\n") -> list[SealJob]:
        """One job for each address, for the same mail."""
        router = Router(self.config)
        message = mail(body)
        envelope = Envelope(Address("s", "example.com"), "client", "", "mx.example.org")
        found = []
        for text in addresses:
            local, _, domain = text.partition("@")
            found.append(SealJob(router.route(Address(local, domain)), envelope, message))
        return found

    def deliver(
        self, *addresses: str, body: bytes = b"Subject: x\r\n\r\ntext\r\n"
    ) -> list[SealJob]:
        jobs = self.jobs(*addresses, body=body)
        seal_group(jobs, self.store())
        return jobs

    def opened(self, path: str) -> bytes:
        with open(path, "rb") as stream:
            return b"".join(open_sealed(stream, self.keys.values()))


def mail(body: bytes, piece: int = 1 << 16) -> Message:
    """A message in pieces of size `piece`; no piece ends within a CR LF."""
    message = Message()
    message.size = len(body)
    while body:
        cut = piece
        while body[cut - 1 : cut] == b"\r":
            cut += 1
        message.pieces.append(body[:cut])
        body = body[cut:]
    return message


def files(maildir: str, folder: str) -> list[str]:
    """Paths in new/, cur/ or tmp/ of a Maildir."""
    path = os.path.join(maildir, folder)
    return (
        [os.path.join(path, name) for name in sorted(os.listdir(path))]
        if os.path.isdir(path)
        else []
    )
