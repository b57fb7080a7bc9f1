"""Mail to a real SMTP server. The server's responses determine the end of the attempt."""

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
    """The mail that a server accepted; `responses` are its replies, by recipient or for DATA."""

    def __init__(self, **responses: str) -> None:
        self.responses = responses
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
        response = self.responses.get(address.partition("@")[0], "250 OK")
        if response.startswith("250"):
            envelope.rcpt_tos.append(address)
        return response

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        response = self.responses.get("DATA", "250 OK")
        if response.startswith("250"):
            self.envelopes.append(envelope)
            self.encrypted.append(session.ssl is not None)
        return response

    def message(self, number: int = 0) -> EmailMessage:
        content = self.envelopes[number].content
        assert isinstance(content, bytes)
        message = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message


@asynccontextmanager
async def serve_smtp(mailbox: Mailbox, **options: Any) -> AsyncIterator[int]:
    """Run an SMTP server and yield its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(mailbox, hostname="mail.test", loop=loop, **options), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def set_settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the handler's environment variables."""

    def set_variables(**settings: object) -> None:
        for name, value in {"sender": "Headrace <jobs@example.org>", **settings}.items():
            monkeypatch.setenv(f"HEADRACE_EMAIL_{name.upper()}", str(value))

    return set_variables


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


async def test_mail_arrives_with_all_parts(set_settings) -> None:
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
    async with serve_smtp(mailbox) as port:
        set_settings(port=port)
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


async def test_retried_mail_has_the_same_message_id(set_settings) -> None:
    mailbox = Mailbox()
    job_id = JobId(uuid7())
    async with serve_smtp(mailbox) as port:
        set_settings(port=port)
        first = await send(MAIL, async_context(job_id=job_id, number=1))
        second = await send(MAIL, async_context(job_id=job_id, number=2))
    assert first.message_id == second.message_id
    assert mailbox.message(0)["Message-ID"] == mailbox.message(1)["Message-ID"]


async def test_mail_is_sent_with_starttls_and_login(set_settings, server_tls, ca_file) -> None:
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
    async with serve_smtp(mailbox, **options) as port:
        set_settings(
            port=port, starttls=True, ca_file=ca_file, username="jobs", password="open sesame"
        )
        await send(MAIL, async_context())
        assert mailbox.encrypted == [True]
        assert set(logins) == {(b"jobs", b"open sesame")}

        set_settings(port=port, starttls=True, ca_file=ca_file, username="jobs", password="guess")
        with pytest.raises(Fail, match="535") as failure:
            await send(MAIL, async_context())
    assert failure.value.type == "MailRefused"
    assert "guess" not in str(failure.value)
    assert len(mailbox.envelopes) == 1


async def test_untrusted_certificate_fails(set_settings, server_tls) -> None:
    mailbox = Mailbox()
    async with serve_smtp(mailbox, tls_context=server_tls) as port:
        set_settings(port=port, starttls=True)
        with pytest.raises(Fail, match="HEADRACE_EMAIL_CA_FILE") as failure:
            await send(MAIL, async_context())
    assert failure.value.type == "NotConfigured"
    assert mailbox.envelopes == []


async def test_server_without_starttls_receives_no_mail(set_settings) -> None:
    mailbox = Mailbox()
    async with serve_smtp(mailbox) as port:
        set_settings(port=port, starttls=True)
        with pytest.raises(Fail, match="STARTTLS"):
            await send(MAIL, async_context())
    assert mailbox.envelopes == []


@pytest.mark.parametrize(
    ("responses", "outcome", "text"),
    [
        ({"DATA": "451 disk full"}, Retry, "451 disk full"),
        ({"DATA": "554 looks like spam"}, Fail, "554 looks like spam"),
        ({"ada": "450 greylisted"}, Retry, "450 greylisted"),
        ({"ada": "550 no such user"}, Fail, "550 no such user"),
    ],
)
async def test_only_a_temporary_rejection_is_retried(
    set_settings, responses: dict[str, str], outcome: type[Exception], text: str
) -> None:
    async with serve_smtp(Mailbox(**responses)) as port:
        set_settings(port=port)
        with pytest.raises(outcome, match=text):
            await send(MAIL, async_context())


async def test_rejected_recipients_are_reported(set_settings) -> None:
    mailbox = Mailbox(bob="550 no such user", carol="450 greylisted")
    mail = Mail(
        to=["ada@example.org", "bob@example.org", "carol@example.org"], subject="Hi", text="Hi"
    )
    async with serve_smtp(mailbox) as port:
        set_settings(port=port)
        sent = await send(mail, async_context())
    assert sent.accepted == ["ada@example.org"]
    assert sent.refused == {
        "bob@example.org": "550 no such user",
        "carol@example.org": "450 greylisted",
    }


async def test_temporarily_rejected_recipient_is_retried(set_settings) -> None:
    mailbox = Mailbox(ada="450 greylisted", bob="550 no such user")
    async with serve_smtp(mailbox) as port:
        set_settings(port=port)
        with pytest.raises(Retry, match="greylisted"):
            await send(
                Mail(to=["ada@example.org", "bob@example.org"], subject="Hi", text="Hi"),
                async_context(),
            )


async def test_unreachable_mail_server_is_retried(set_settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    set_settings(port=port)
    with pytest.raises(Retry, match="is unreachable"):
        await send(MAIL, async_context())


async def test_mail_server_that_disconnects_is_retried(set_settings) -> None:
    async def disconnect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(disconnect, "127.0.0.1", 0)
    async with server:
        set_settings(port=server.sockets[0].getsockname()[1])
        with pytest.raises(Retry):
            await send(MAIL, async_context())


async def test_silent_mail_server_is_retried(set_settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        set_settings(port=silent.getsockname()[1], timeout=0.2)
        with pytest.raises(Retry):
            await send(MAIL, async_context())


async def test_address_that_the_server_cannot_accept_fails(set_settings) -> None:
    async with serve_smtp(Mailbox(), enable_SMTPUTF8=False) as port:
        set_settings(port=port)
        with pytest.raises(Fail, match="SMTPUTF8"):
            await send(Mail(to=["jürg@example.org"], subject="Hi", text="Hi"), async_context())


async def test_non_ascii_address_is_sent_with_smtputf8(set_settings) -> None:
    mailbox = Mailbox()
    async with serve_smtp(mailbox, enable_SMTPUTF8=True) as port:
        set_settings(port=port)
        sent = await send(Mail(to=["jürg@exämple.org"], subject="Hi", text="Hi"), async_context())
    assert sent.accepted == mailbox.envelopes[0].rcpt_tos == ["jürg@exämple.org"]
    assert mailbox.message()["To"] == "jürg@exämple.org"
