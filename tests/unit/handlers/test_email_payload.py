"""Mail payloads cannot inject headers or recipients. The settings protect the password."""

from __future__ import annotations

import email
import email.policy
import json
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.ids import JobId, uuid7
from headrace_handlers.email import EmailSettings, Mail, _compose, message_id_of
from headrace_worker import Fail

MAIL: dict[str, Any] = {"to": ["ada@example.org"], "subject": "Hello", "text": "Hello Ada"}


def decode(**fields: Any) -> Mail:
    return msgspec.json.decode(json.dumps({**MAIL, **fields}), type=Mail)


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": "Hello\r\nBcc: eve@example.org"},
        {"subject": "Hello\n"},
        {"subject": "Hello\x00"},
        {"to": ["ada@example.org\nBcc: eve@example.org"]},
        {"to": ["ada@example.org\n"]},
        {"to": ["ada@example.org, eve@example.org"]},
        {"to": ["Ada <ada@example.org>"]},
        {"cc": ["a b@example.org"]},
        {"reply_to": "ada@example.org\r\nX: y"},
        {"headers": {"X-Note": "a\r\nBcc: eve@example.org"}},
        {"headers": {"X-Note": "a\n"}},
        {"headers": {"X-Note\nBcc": "a"}},
        {"headers": {"X-Note\n": "a"}},
        {"headers": {"X Note": "a"}},
        {"headers": {"bcc": "eve@example.org"}},
        {"headers": {"Resent-To": "eve@example.org"}},
        {"headers": {"Content-Type": "text/html"}},
        {"headers": {"Message-ID": "<mine@example.org>"}},
        {"to": []},
        {"to": ["nobody"]},
        *(
            {"to": [address]}
            for address in (
                *("a..b@example.org", ".a@example.org", "a.@example.org", "@example.org", "a@"),
                *("a@example..org", "a@.example.org", "a@example.org.", "a@-a.org", "a@a-.org"),
                *("a@b@example.org", "a(b)@example.org", '"a b"@example.org', "a\\b@example.org"),
                *("a@[300.0.0.1]", "a@[127.0.0.1", "a@exa!mple.org", "a@" + "x" * 64 + ".org"),
                *("x" * 65 + "@example.org", "ü" * 33 + "@example.org", "a\u2028b@example.org"),
                *("a\u200bb@example.org", "a\x85@example.org", "a@xn--\u2028.org"),
            )
        ),
        {"to": [f"{n}@example.org" for n in range(101)]},
        {
            "to": [f"{n}@example.org" for n in range(60)],
            "cc": ["x@a.org"] + [f"c{n}@a.org" for n in range(60)],
        },
    ],
)
def test_mail_with_invalid_fields_is_rejected(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(**fields)


@pytest.mark.parametrize(
    "address",
    [
        *("ada@example.org", "a.b+c@a-b.example", "o'hara@example.org", "root@localhost"),
        *("jürg@exämple.org", "a@[127.0.0.1]", "a@my_host", "!#$%&'*+-/=?^_`{|}~@example.org"),
        "x" * 64 + "@example.org",
    ],
)
def test_valid_address_is_accepted(address: str) -> None:
    assert decode(to=[address], reply_to=address).to == [address]


@given(
    st.text(max_size=40),
    st.text(max_size=40),
    st.sampled_from(["X-Note", "References", "List-Unsubscribe", "In-Reply-To", "Priority"]),
)
def test_any_text_stays_in_its_header(subject: str, value: str, name: str) -> None:
    try:
        mail = decode(subject=subject, headers={name: value})
        message = _compose(mail, sender="jobs@example.org", message_id="<1@example.org>")
    except (msgspec.ValidationError, Fail):
        return
    written = email.message_from_bytes(message.as_bytes(), policy=email.policy.SMTP)
    assert [key.lower() for key in written] == [key.lower() for key in message]
    assert written["Bcc"] is None


@given(st.text(max_size=30))
def test_subject_with_a_line_break_is_rejected(subject: str) -> None:
    try:
        mail = decode(subject=subject)
    except msgspec.ValidationError:
        return
    assert not set("\r\n\0") & set(mail.subject)


def test_repeated_address_is_one_recipient() -> None:
    mail = decode(to=["a@example.org", "b@example.org"], cc=["a@example.org", "c@example.org"])
    assert mail.recipients == ["a@example.org", "b@example.org", "c@example.org"]


def test_message_id_contains_job_id_and_sender_domain() -> None:
    job_id = JobId(uuid7())
    expected = f"<{job_id}.headrace@example.org>"
    assert message_id_of(job_id, "Headrace <jobs@example.org>") == expected
    assert message_id_of(job_id, "jobs@example.org") == expected
    assert message_id_of(JobId(uuid7()), "jobs@example.org") != expected


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"HOST": "mail.example.org", "USERNAME": "jobs"}, "HEADRACE_EMAIL_STARTTLS=true"),
        ({"SENDER": "Headrace"}, "must be an address"),
        (
            {"SENDER": "Headrace <jobs@example.org>\nBcc: eve@example.org"},
            # Older Python versions parse the address and ignore the rest; newer ones reject it.
            "control characters|must be an address",
        ),
        ({"PORT": "0"}, "greater than or equal to 1"),
    ],
)
def test_unsafe_mail_settings_are_rejected(
    environment: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"HEADRACE_EMAIL_{name}", value)
    with pytest.raises(pydantic.ValidationError, match=problem):
        EmailSettings()


def test_mail_settings_hide_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_EMAIL_PASSWORD", "open sesame")
    assert "sesame" not in repr(EmailSettings())
