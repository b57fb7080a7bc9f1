"""Page tokens and cursors are valid only in the context that created them."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.errors import CursorInvalid, PageTokenInvalid
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.subscription import SubscriptionId
from headrace_core.store.sql.installation import Installation
from headrace_gateway.tokens import (
    SubscriptionCursor,
    decode_cursor,
    decode_name_token,
    decode_page_token,
    decode_subscription_cursor,
    encode_cursor,
    encode_name_token,
    encode_page_token,
    encode_subscription_cursor,
)

INSTALLATION = Installation(id=uuid4(), secret=b"s" * 32)
OTHER_SECRET = Installation(id=INSTALLATION.id, secret=b"t" * 32)
OTHER_DATABASE = Installation(id=uuid4(), secret=INSTALLATION.secret)
JOB = JobId(uuid7())
PLACE = SubscriptionCursor(
    subscription_id=SubscriptionId(uuid4()), epoch=7, xid=2**63 + 5, position=17
)


def test_page_token_decodes_to_its_job():
    token = encode_page_token(INSTALLATION, "default", "state = FAILED", JOB)
    assert decode_page_token(INSTALLATION, "default", "state = FAILED", token) == JOB
    assert token.isascii()
    assert "=" not in token


def test_empty_page_token_is_the_first_page():
    assert decode_page_token(INSTALLATION, "default", "", "") is None


@pytest.mark.parametrize(
    ("installation", "tenant", "query"),
    [
        (INSTALLATION, "default", "state = QUEUED"),
        (INSTALLATION, "other", "state = FAILED"),
        (OTHER_SECRET, "default", "state = FAILED"),
        (OTHER_DATABASE, "default", "state = FAILED"),
    ],
)
def test_page_token_from_another_context_is_invalid(
    installation: Installation, tenant: str, query: str
):
    token = encode_page_token(INSTALLATION, "default", "state = FAILED", JOB)
    with pytest.raises(PageTokenInvalid):
        decode_page_token(installation, tenant, query, token)


def test_tenant_and_filter_are_signed_separately():
    token = encode_page_token(INSTALLATION, "ab", "c", JOB)
    with pytest.raises(PageTokenInvalid):
        decode_page_token(INSTALLATION, "a", "bc", token)


def test_cursor_decodes_to_its_place():
    cursor = encode_cursor(INSTALLATION, "default", 2**63 + 5, 17)
    assert decode_cursor(INSTALLATION, "default", cursor) == (2**63 + 5, 17)


@pytest.mark.parametrize(
    ("installation", "tenant"),
    [(OTHER_SECRET, "default"), (OTHER_DATABASE, "default"), (INSTALLATION, "other")],
)
def test_cursor_from_another_context_is_invalid(installation: Installation, tenant: str):
    with pytest.raises(CursorInvalid):
        decode_cursor(installation, tenant, encode_cursor(INSTALLATION, "default", 1, 2))


def test_subscription_cursor_decodes_to_its_place():
    cursor = encode_subscription_cursor(INSTALLATION, "default", PLACE)
    assert decode_subscription_cursor(INSTALLATION, "default", cursor) == PLACE
    assert len(cursor) < 200


@pytest.mark.parametrize(
    ("installation", "tenant"),
    [(OTHER_SECRET, "default"), (OTHER_DATABASE, "default"), (INSTALLATION, "other")],
)
def test_subscription_cursor_from_another_context_is_invalid(
    installation: Installation, tenant: str
):
    cursor = encode_subscription_cursor(INSTALLATION, "default", PLACE)
    with pytest.raises(CursorInvalid):
        decode_subscription_cursor(installation, tenant, cursor)


@pytest.mark.parametrize("name", ["a", "billing.v2", "x" * 100])
def test_name_token_decodes_to_its_name(name: str):
    token = encode_name_token(INSTALLATION, "default", name)
    assert decode_name_token(INSTALLATION, "default", token) == name
    for installation, tenant in ((OTHER_SECRET, "default"), (INSTALLATION, "other")):
        with pytest.raises(PageTokenInvalid):
            decode_name_token(installation, tenant, token)


def test_empty_name_token_is_the_first_page():
    assert decode_name_token(INSTALLATION, "default", "") == ""


def test_token_of_another_kind_is_invalid():
    tokens = {
        "page": encode_page_token(INSTALLATION, "default", "", JOB),
        "cursor": encode_cursor(INSTALLATION, "default", 1, 2),
        "subscription": encode_subscription_cursor(INSTALLATION, "default", PLACE),
        "name": encode_name_token(INSTALLATION, "default", "a"),
        # This place is as long as a cursor's place.
        "long name": encode_name_token(INSTALLATION, "default", "x" * 40),
        "job's name": encode_name_token(INSTALLATION, "default", "x" * 16),
    }
    for kind, token in tokens.items():
        if kind != "cursor":
            with pytest.raises(CursorInvalid):
                decode_cursor(INSTALLATION, "default", token)
        if kind != "subscription":
            with pytest.raises(CursorInvalid):
                decode_subscription_cursor(INSTALLATION, "default", token)
        if kind != "page":
            with pytest.raises(PageTokenInvalid):
                decode_page_token(INSTALLATION, "default", "", token)
        if not kind.endswith("name"):
            with pytest.raises(PageTokenInvalid):
                decode_name_token(INSTALLATION, "default", token)


def test_altered_token_is_invalid():
    token = encode_page_token(INSTALLATION, "default", "", JOB)
    for place in range(len(token)):
        altered = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        try:
            # Only the unused bits at the end of the base64 text may differ.
            assert decode_page_token(INSTALLATION, "default", "", altered) == JOB
            assert place == len(token) - 1
        except PageTokenInvalid:
            pass


@given(st.text(min_size=1))
def test_arbitrary_token_is_invalid(text: str):
    with pytest.raises(PageTokenInvalid):
        decode_page_token(INSTALLATION, "default", "", text)
    with pytest.raises(CursorInvalid):
        decode_cursor(INSTALLATION, "default", text)
    with pytest.raises(PageTokenInvalid):
        decode_name_token(INSTALLATION, "default", text)
    with pytest.raises(CursorInvalid):
        decode_subscription_cursor(INSTALLATION, "default", text)


def test_empty_cursor_is_invalid():
    with pytest.raises(CursorInvalid):
        decode_cursor(INSTALLATION, "default", "")
    with pytest.raises(CursorInvalid):
        decode_subscription_cursor(INSTALLATION, "default", "")
