"""A real SMTP server that stores received mails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session


class Mailbox:
    """Receives mails on a local port and stores each as a file.

    Args:
        folder: the folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Mailbox]:
        """Start a mailbox and yield it."""
        folder.mkdir(parents=True)
        mailbox = cls(folder)
        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(mailbox, hostname="localhost"), "127.0.0.1", 0
        )
        mailbox.port = server.sockets[0].getsockname()[1]
        async with server:
            yield mailbox

    async def handle_DATA(self, _: SMTP, __: Session, envelope: Envelope) -> str:  # noqa: N802
        """Store a mail; aiosmtpd finds this method by its name."""
        content = envelope.content
        assert isinstance(content, bytes)
        number = len(list(self.folder.iterdir())) + 1
        (self.folder / f"{number}.eml").write_bytes(content)
        return "250 OK"

    def mails(self) -> list[Message]:
        """Return the received mails, read from the files."""
        return [message_from_bytes(p.read_bytes()) for p in sorted(self.folder.iterdir())]

    def problems(self) -> list[str]:
        """Return the differences from the expected mails."""
        subjects = [mail["Subject"] for mail in self.mails()]
        return (
            []
            if subjects == ["Headrace is up"]
            else [f"unexpected mails in the mailbox: {subjects}"]
        )
