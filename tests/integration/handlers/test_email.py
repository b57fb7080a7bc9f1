"""Mails to a real SMTP server: its responses determine the end of the attempt."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from headrace_core.domain.ids import JobId, uuid7
from headrace_handlers.email import Mail
from headrace_handlers.email import email as send
from headrace_worker import Fail, Retry
from support.recording import async_context


class Mailbox:
    """The accepted mails of a server; `answers` are its responses by recipient, or for DATA."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.envelopes: list[Envelope] = []
        self.encrypted: list[bool] = []

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self,
        _server: SMTP,
        _session: Session,
        envelope: Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        answer = self.answers.get(address.partition("@")[0], "250 OK")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        answer = self.answers.get("DATA", "250 OK")
        if answer.startswith("250"):
            self.envelopes.append(envelope)
            self.encrypted.append(session.ssl is not None)
        return answer

    def message(self, number: int = 0) -> EmailMessage:
        content = self.envelopes[number].content
        assert isinstance(content, bytes)
        message = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message


@asynccontextmanager
async def serving(mailbox: Mailbox, **options: Any) -> AsyncIterator[int]:
    """Run an SMTP server and yield its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(mailbox, hostname="mail.test", loop=loop, **options), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that sets the settings of the handler."""

    def set_all(**settings: object) -> None:
        for name, value in {"sender": "Headrace <jobs@example.org>", **settings}.items():
            monkeypatch.setenv(f"HEADRACE_EMAIL_{name.upper()}", str(value))

    return set_all


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


MAIL = Mail(to=["ada@example.org"], subject="Grüße", text="Liebe Ada,\nalles läuft.\n")


async def test_mail_arrives_complete(use) -> None:
    mailbox = Mailbox()
    ctx = async_context()
    mail = Mail(
        to=["ada@example.org", "bob@example.org"],
        cc=["carol@example.org", "ada@example.org"],
        subject="Grüße aus Zürich ✓",
        text="Liebe Ada,\nalles läuft.\n",
        html="<p>Liebe Ada, alles läuft.</p>",
        reply_to="desk@example.org",
        headers={"List-Unsubscribe": "<mailto:leave@example.org>"},
    )
    async with serving(mailbox) as port:
        use(port=port)
        sent = await send(mail, ctx)
    assert sent.accepted == ["ada@example.org", "bob@example.org", "carol@example.org"]
    assert sent.refused == {}
    assert mailbox.envelopes[0].mail_from == "jobs@example.org"
    assert mailbox.envelopes[0].rcpt_tos == sent.accepted
    message = mailbox.message()
    assert message["From"] == "Headrace <jobs@example.org>"
    assert message["To"] == "ada@example.org, bob@example.org"
    assert message["Cc"] == "carol@example.org, ada@example.org"
    assert message["Reply-To"] == "desk@example.org"
    assert message["Subject"] == "Grüße aus Zürich ✓"
    assert message["List-Unsubscribe"] == "<mailto:leave@example.org>"
    assert message["Message-ID"] == sent.message_id
    assert sent.message_id == f"<{ctx.attempt.job_id}.headrace@example.org>"
    assert message["Date"].datetime is not None
    parts = {part.get_content_type(): part.get_content() for part in message.iter_parts()}
    assert parts["text/plain"].replace("\r\n", "\n") == mail.text
    assert parts["text/html"].strip() == mail.html


async def test_retried_mail_has_the_same_message_id(use) -> None:
    mailbox = Mailbox()
    job_id = JobId(uuid7())
    async with serving(mailbox) as port:
        use(port=port)
        first = await send(MAIL, async_context(job_id=job_id, number=1))
        second = await send(MAIL, async_context(job_id=job_id, number=2))
    assert first.message_id == second.message_id
    assert mailbox.message(0)["Message-ID"] == mailbox.message(1)["Message-ID"]


async def test_mail_is_sent_with_starttls_and_login(use, server_tls, ca_file) -> None:
    mailbox = Mailbox()
    logins = []

    def authenticate(_server, _session, _envelope, mechanism, login) -> AuthResult:
        assert isinstance(login, LoginPassword)
        logins.append((login.login, login.password))
        return AuthResult(success=login.password == b"open sesame", handled=False)

    options = {
        "tls_context": server_tls,
        "require_starttls": True,
        "auth_required": True,
        "authenticator": authenticate,
    }
    async with serving(mailbox, **options) as port:
        use(port=port, starttls=True, ca_file=ca_file, username="jobs", password="open sesame")
        await send(MAIL, async_context())
        assert mailbox.encrypted == [True]
        assert set(logins) == {(b"jobs", b"open sesame")}

        use(port=port, starttls=True, ca_file=ca_file, username="jobs", password="guess")
        with pytest.raises(Fail, match="535") as failure:
            await send(MAIL, async_context())
    assert failure.value.type == "MailRefused"
    assert "guess" not in str(failure.value)
    assert len(mailbox.envelopes) == 1


async def test_untrusted_certificate_fails(use, server_tls) -> None:
    mailbox = Mailbox()
    async with serving(mailbox, tls_context=server_tls) as port:
        use(port=port, starttls=True)
        with pytest.raises(Fail, match="HEADRACE_EMAIL_CA_FILE") as failure:
            await send(MAIL, async_context())
    assert failure.value.type == "NotConfigured"
    assert mailbox.envelopes == []


async def test_server_without_starttls_receives_no_mail(use) -> None:
    mailbox = Mailbox()
    async with serving(mailbox) as port:
        use(port=port, starttls=True)
        with pytest.raises(Fail, match="STARTTLS"):
            await send(MAIL, async_context())
    assert mailbox.envelopes == []


@pytest.mark.parametrize(
    ("answers", "outcome", "text"),
    [
        ({"DATA": "451 disk full"}, Retry, "451 disk full"),
        ({"DATA": "554 looks like spam"}, Fail, "554 looks like spam"),
        ({"ada": "450 greylisted"}, Retry, "450 greylisted"),
        ({"ada": "550 no such user"}, Fail, "550 no such user"),
    ],
)
async def test_refusal_is_retried_if_temporary(
    use, answers: dict[str, str], outcome: type[Exception], text: str
) -> None:
    async with serving(Mailbox(**answers)) as port:
        use(port=port)
        with pytest.raises(outcome, match=text):
            await send(MAIL, async_context())


async def test_refused_recipients_are_reported(use) -> None:
    mailbox = Mailbox(bob="550 no such user", carol="450 greylisted")
    mail = Mail(
        to=["ada@example.org", "bob@example.org", "carol@example.org"], subject="Hi", text="Hi"
    )
    async with serving(mailbox) as port:
        use(port=port)
        sent = await send(mail, async_context())
    assert sent.accepted == ["ada@example.org"]
    assert sent.refused == {
        "bob@example.org": "550 no such user",
        "carol@example.org": "450 greylisted",
    }


async def test_temporarily_refused_recipient_is_retried(use) -> None:
    mailbox = Mailbox(ada="450 greylisted", bob="550 no such user")
    async with serving(mailbox) as port:
        use(port=port)
        with pytest.raises(Retry, match="greylisted"):
            await send(
                Mail(to=["ada@example.org", "bob@example.org"], subject="Hi", text="Hi"),
                async_context(),
            )


async def test_unreachable_mail_server_is_retried(use) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    use(port=port)
    with pytest.raises(Retry, match="is unreachable"):
        await send(MAIL, async_context())


async def test_mail_server_that_disconnects_is_retried(use) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        use(port=server.sockets[0].getsockname()[1])
        with pytest.raises(Retry):
            await send(MAIL, async_context())


async def test_silent_mail_server_is_retried(use) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(port=silent.getsockname()[1], timeout=0.2)
        with pytest.raises(Retry):
            await send(MAIL, async_context())


async def test_address_that_the_server_cannot_accept_fails(use) -> None:
    async with serving(Mailbox(), enable_SMTPUTF8=False) as port:
        use(port=port)
        with pytest.raises(Fail, match="SMTPUTF8"):
            await send(Mail(to=["jürg@example.org"], subject="Hi", text="Hi"), async_context())


async def test_non_ascii_address_is_sent_with_smtputf8(use) -> None:
    mailbox = Mailbox()
    async with serving(mailbox, enable_SMTPUTF8=True) as port:
        use(port=port)
        sent = await send(Mail(to=["jürg@exämple.org"], subject="Hi", text="Hi"), async_context())
    assert sent.accepted == mailbox.envelopes[0].rcpt_tos == ["jürg@exämple.org"]
    assert mailbox.message()["To"] == "jürg@exämple.org"
