"""Page tokens and cursors open only where they were made."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.errors import CursorInvalid, PageTokenInvalid
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.store.installation import Installation
from headrace_gateway.tokens import (
    decode_cursor,
    decode_page_token,
    encode_cursor,
    encode_page_token,
)

HERE = Installation(id=uuid4(), secret=b"s" * 32)
OTHER_SECRET = Installation(id=HERE.id, secret=b"t" * 32)
OTHER_DATABASE = Installation(id=uuid4(), secret=HERE.secret)
JOB = JobId(uuid7())


def test_a_page_token_names_the_job_that_it_was_made_for():
    token = encode_page_token(HERE, "default", "state = FAILED", JOB)
    assert decode_page_token(HERE, "default", "state = FAILED", token) == JOB
    assert token.isascii()
    assert "=" not in token


def test_no_page_token_is_the_first_page():
    assert decode_page_token(HERE, "default", "", "") is None


@pytest.mark.parametrize(
    ("installation", "tenant", "query"),
    [
        (HERE, "default", "state = QUEUED"),
        (HERE, "other", "state = FAILED"),
        (OTHER_SECRET, "default", "state = FAILED"),
        (OTHER_DATABASE, "default", "state = FAILED"),
    ],
)
def test_a_page_token_of_another_filter_tenant_or_database_is_refused(
    installation: Installation, tenant: str, query: str
):
    token = encode_page_token(HERE, "default", "state = FAILED", JOB)
    with pytest.raises(PageTokenInvalid):
        decode_page_token(installation, tenant, query, token)


def test_tenant_and_filter_cannot_be_shifted_into_each_other():
    token = encode_page_token(HERE, "ab", "c", JOB)
    with pytest.raises(PageTokenInvalid):
        decode_page_token(HERE, "a", "bc", token)


def test_a_cursor_names_its_place():
    cursor = encode_cursor(HERE, "default", 2**63 + 5, 17)
    assert decode_cursor(HERE, "default", cursor) == (2**63 + 5, 17)


@pytest.mark.parametrize(
    ("installation", "tenant"),
    [(OTHER_SECRET, "default"), (OTHER_DATABASE, "default"), (HERE, "other")],
)
def test_a_cursor_of_another_tenant_or_database_is_refused(installation: Installation, tenant: str):
    with pytest.raises(CursorInvalid):
        decode_cursor(installation, tenant, encode_cursor(HERE, "default", 1, 2))


def test_a_page_token_is_no_cursor_and_a_cursor_no_page_token():
    with pytest.raises(CursorInvalid):
        decode_cursor(HERE, "default", encode_page_token(HERE, "default", "", JOB))
    with pytest.raises(PageTokenInvalid):
        decode_page_token(HERE, "default", "", encode_cursor(HERE, "default", 1, 2))


def test_a_token_that_was_altered_anywhere_is_refused():
    token = encode_page_token(HERE, "default", "", JOB)
    for place in range(len(token)):
        altered = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        try:
            # Only the unused bits at the end of the base64 may differ.
            assert decode_page_token(HERE, "default", "", altered) == JOB
            assert place == len(token) - 1
        except PageTokenInvalid:
            pass


@given(st.text(min_size=1))
def test_arbitrary_text_is_refused(text: str):
    with pytest.raises(PageTokenInvalid):
        decode_page_token(HERE, "default", "", text)
    with pytest.raises(CursorInvalid):
        decode_cursor(HERE, "default", text)
    with pytest.raises(CursorInvalid):
        decode_cursor(HERE, "default", "")
