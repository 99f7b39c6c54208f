# SPDX-License-Identifier: MIT
"""The demo's mail: text, names and an attachment, with words to search for later."""

from __future__ import annotations

from email.message import EmailMessage
from email.policy import SMTP

SENDER = "grower@example.net"
SECRETS = {
    "subject": ["harvestreport", "marzipanorchard"],
    "names": ["Evangelina", "Thistlewood"],
    "body": ["pomegranate", "nightharvest", "Mühlenbäcker"],
    "attachment": ["barrelcount", "quincebrandy"],
}
WORDS = [word for words in SECRETS.values() for word in words]


def letter(recipient: str) -> bytes:
    """A mail with a text in 8-bit characters and an attachment; lines end with CRLF."""
    mail = EmailMessage()
    mail["From"] = f"Evangelina Thistlewood <{SENDER}>"
    mail["To"] = f"<{recipient}>"
    mail["Subject"] = "harvestreport from the marzipanorchard"
    mail["Message-ID"] = "<20260101.demo@example.net>"
    mail["Date"] = "Thu, 01 Jan 2026 12:00:00 +0000"
    mail.set_content(
        "Dear Alice,\n\nthe pomegranate trees did well, and nightharvest begins on Monday.\n"
        "Tell Frau Mühlenbäcker, but nobody else.\n\n.\n.. and this line began with dots\n",
        cte="8bit",
    )
    mail.add_attachment(
        b"barrelcount;4711\nquincebrandy;42\n" * 20,
        maintype="application",
        subtype="octet-stream",
        filename="barrelcount.csv",
    )
    mail.set_boundary("=-the-same-each-time")
    return mail.as_bytes(policy=SMTP)


def sent_copy() -> bytes:
    """The mail that the client saves in Sent."""
    return (
        b"From: Alice <alice@example.org>\r\nTo: Evangelina Thistlewood <grower@example.net>\r\n"
        b"Subject: Re: harvestreport\r\n\r\nNo word about the pomegranate to anybody.\r\n"
    )
