"""Send email by SMTP.

A retry sends the same Message-ID, which is derived from the job id, so mailboxes can detect
duplicates.
"""

# ruff: noqa: E402 - the check comes before the imports that need it
from __future__ import annotations

from headrace_worker import require_packages

require_packages("aiosmtplib", install="headrace-handlers[email]")

import ipaddress
import re
import ssl
from datetime import timedelta
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, parseaddr
from pathlib import Path
from typing import Annotated, Self
from uuid import UUID

import aiosmtplib
from msgspec import Meta, Struct, field
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace_worker import Context, Fail, InvalidPayload, Retry, RetryPolicy, handler

MAX_RECIPIENTS = 100

# Headers that this handler writes itself, or that would change the recipients.
_RESERVED_HEADERS = frozenset(
    {
        "bcc",
        "cc",
        "date",
        "from",
        "message-id",
        "mime-version",
        "received",
        "reply-to",
        "return-path",
        "sender",
        "subject",
        "to",
    }
)
_RESERVED_PREFIXES = ("content-", "resent-", "dkim-", "arc-")

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

# A dot-atom on both sides (RFC 5322, section 3.4.1; non-ASCII by RFC 6531), or an IPv4 address in
# brackets. Quoted local parts are not supported.
_ATOMS = r'[^\x00-\x20\x7f@<>,;:"()\[\]\\.]+(?:\.[^\x00-\x20\x7f@<>,;:"()\[\]\\.]+)*'
# RFC 5321, section 4.5.3.1, in octets.
_MAX_LOCAL = 64
_MAX_ADDRESS = 254
_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")

MailAddress = Annotated[
    str,
    Meta(
        pattern=rf"^{_ATOMS}@(?:{_ATOMS}|\[[0-9.]+\])$",
        max_length=_MAX_ADDRESS,
        examples=["ada@example.org"],
    ),
]
Line = Annotated[str, Meta(pattern=r"^[^\r\n]*$", max_length=900)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+$", max_length=76)]


class EmailSettings(BaseSettings):
    """The mail server. The default of `port` is 587 with STARTTLS, otherwise 25.

    `ca_file` is a PEM file that replaces the system's certificates; `timeout` limits each
    response of the server, in seconds.
    """

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_EMAIL_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=1, le=65535)
    starttls: bool = False
    ca_file: Path | None = None
    username: str | None = None
    password: SecretStr | None = None
    sender: str = "Headrace <headrace@localhost>"
    timeout: float = Field(30.0, gt=0)

    @field_validator("sender")
    @classmethod
    def _check_sender(cls, sender: str) -> str:
        if not is_address(parseaddr(sender)[1]):
            raise ValueError("must be an address: `name@host`, or `Name <name@host>`")
        if not sender.isprintable():
            raise ValueError("must not contain control characters")
        return sender

    @model_validator(mode="after")
    def _check_secrecy(self) -> Self:
        if self.username and not self.starttls and self.host not in _LOOPBACK:
            raise ValueError(
                "HEADRACE_EMAIL_USERNAME requires HEADRACE_EMAIL_STARTTLS=true, so that the "
                "password is encrypted"
            )
        return self


class Mail(Struct, frozen=True, forbid_unknown_fields=True):
    """An email. All recipients see the addresses in `to` and `cc`."""

    to: Annotated[
        list[MailAddress],
        Meta(description="Recipients.", min_length=1, max_length=MAX_RECIPIENTS),
    ]
    subject: Annotated[Line, Meta(description="The subject, one line.")]
    text: Annotated[str, Meta(description="The body as plain text.")]
    html: Annotated[str | None, Meta(description="The body as HTML.")] = None
    cc: Annotated[
        list[MailAddress],
        Meta(description="Recipients of a copy.", max_length=MAX_RECIPIENTS - 1),
    ] = field(default_factory=list)
    reply_to: Annotated[MailAddress | None, Meta(description="The address for replies.")] = None
    headers: Annotated[
        dict[HeaderName, Line],
        Meta(
            description="Additional headers, except those that the handler writes itself.",
            max_length=20,
            examples=[{"List-Unsubscribe": "<mailto:leave@example.org>"}],
        ),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.recipients) > MAX_RECIPIENTS:
            raise InvalidPayload(
                f"to and cc contain {len(self.recipients)} addresses; the limit is {MAX_RECIPIENTS}"
            )
        for value in (
            *self.recipients,
            self.reply_to or "",
            self.subject,
            *self.headers,
            *self.headers.values(),
        ):
            # A line break would start another header. The patterns do not exclude it,
            # because `$` also matches before a final line break.
            if any(character < " " or character == "\x7f" for character in value):
                raise InvalidPayload(
                    "addresses, subject and headers must not contain control characters"
                )
        if not all(map(is_address, (*self.recipients, *filter(None, [self.reply_to])))):
            raise InvalidPayload(
                f"an address must be name@host.example, at most {_MAX_LOCAL} bytes before the @ "
                f"and {_MAX_ADDRESS} in all"
            )
        for name in self.headers:
            if name.lower() in _RESERVED_HEADERS or name.lower().startswith(_RESERVED_PREFIXES):
                raise InvalidPayload(f"headers must not contain {name}, which the handler writes")

    @property
    def recipients(self) -> list[str]:
        """All addresses in `to` and `cc`, without duplicates."""
        return list(dict.fromkeys([*self.to, *self.cc]))


class Sent(Struct, frozen=True):
    """The mail server's response."""

    message_id: Annotated[str, Meta(description="The Message-ID, the same for every attempt.")]
    accepted: Annotated[list[str], Meta(description="Accepted recipients.")]
    refused: Annotated[
        dict[str, str],
        Meta(description="Refused recipients with the server's response; not retried."),
    ]


@handler(
    "email",
    timeout=timedelta(minutes=2),
    retry=RetryPolicy(max_attempts=5, initial_backoff=timedelta(seconds=5)),
)
async def email(mail: Mail, ctx: Context) -> Sent:
    """Send an email by SMTP.

    Retries if the server is unreachable or returns a temporary error. If the server accepts only
    some recipients, the job succeeds, because a retry would send the mail to them twice.
    """
    settings = EmailSettings()
    message_id = message_id_of(ctx.attempt.job_id, settings.sender)
    message = _compose(mail, sender=settings.sender, message_id=message_id)
    try:
        refused, _ = await aiosmtplib.send(
            message,
            sender=parseaddr(settings.sender)[1],
            recipients=mail.recipients,
            hostname=settings.host,
            port=settings.port,
            start_tls=settings.starttls,
            cert_bundle=str(settings.ca_file) if settings.ca_file else None,
            username=settings.username,
            password=settings.password.get_secret_value() if settings.password else None,
            timeout=settings.timeout,
        )
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise _exception_for(error) from error
    return Sent(
        message_id=message_id,
        accepted=[address for address in mail.recipients if address not in refused],
        refused={address: f"{code} {text}" for address, (code, text) in refused.items()},
    )


def message_id_of(job_id: UUID, sender: str) -> str:
    """Return the Message-ID of a job's mail, in the sender's domain."""
    domain = parseaddr(sender)[1].rpartition("@")[2]
    return f"<{job_id}.headrace@{domain}>"


def is_address(text: str) -> bool:
    """Return whether an address is well-formed."""
    local, _, domain = text.rpartition("@")
    if len(local.encode()) > _MAX_LOCAL or len(text.encode()) > _MAX_ADDRESS:
        return False
    if not re.fullmatch(_ATOMS, local) or not local.isprintable():
        return False
    try:
        if domain.startswith("[") and domain.endswith("]"):
            return ipaddress.IPv4Address(domain[1:-1]).version == 4
        labels = domain.encode("idna").decode().split(".")
    except ValueError:
        return False
    return all(map(_HOST_LABEL.fullmatch, labels))


def _compose(mail: Mail, *, sender: str, message_id: str) -> EmailMessage:
    """Return the message.

    Raises:
        Fail: the email package cannot write it.
    """
    try:
        message = _message(mail, sender=sender, message_id=message_id)
        # Headers are folded here, and the email package rejects some of them.
        message.as_bytes()
    except (ValueError, LookupError, TypeError, AttributeError, MessageError) as error:
        raise Fail(f"the mail cannot be written: {error}", type="InvalidMail") from error
    return message


def _message(mail: Mail, *, sender: str, message_id: str) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    name, address = parseaddr(sender)
    message["From"] = _address(address, name)
    message["To"] = [_address(address) for address in mail.to]
    if mail.cc:
        message["Cc"] = [_address(address) for address in mail.cc]
    if mail.reply_to:
        message["Reply-To"] = _address(mail.reply_to)
    message["Subject"] = mail.subject
    message["Date"] = formatdate()
    message["Message-ID"] = message_id
    for header, value in mail.headers.items():
        message[header] = value
    message.set_content(mail.text)
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html")
    return message


def _address(address: str, name: str = "") -> Address:
    # addr_spec would reject non-ASCII addresses.
    user, _, domain = address.rpartition("@")
    return Address(name, user, domain)


def _exception_for(error: Exception) -> Retry | Fail:
    """Return the exception for a failed delivery, with the server's response."""
    match error:
        case aiosmtplib.SMTPRecipientsRefused(recipients=refusals):
            text = "; ".join(f"{r.recipient}: {r.code} {r.message}" for r in refusals)
            if all(_is_permanent(r.code) for r in refusals):
                return Fail(f"every recipient was refused: {text}", type="MailRefused")
            return Retry(f"no recipient was accepted: {text}")
        case aiosmtplib.SMTPResponseException(code=code, message=message):
            if _is_permanent(code):
                return Fail(
                    f"the mail server rejected the mail: {code} {message}", type="MailRefused"
                )
            return Retry(f"the mail server returned a temporary error: {code} {message}")
        case ssl.SSLCertVerificationError():
            return Fail(
                f"the mail server's certificate is not trusted ({error.verify_message}); "
                "set HEADRACE_EMAIL_CA_FILE to trust other certificates",
                type="NotConfigured",
            )
        case OSError():
            # aiosmtplib's lost connections and timeouts are also OSErrors.
            return Retry(f"the mail server is unreachable: {error}")
        case _:
            # The server lacks a required feature: STARTTLS, authentication or UTF-8 addresses.
            return Fail(f"the mail server cannot send this mail: {error}", type="MailRefused")


def _is_permanent(code: int) -> bool:
    return 500 <= code <= 599
