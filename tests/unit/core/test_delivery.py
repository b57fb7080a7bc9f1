"""The name of a delivery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.delivery import Delivery
from headrace_core.domain.ids import JobId, uuid7


@given(st.uuids(), st.integers(1, 2**31 - 1))
def test_a_name_is_read_back(job_id: JobId, attempt: int) -> None:
    delivery = Delivery(job_id=job_id, attempt=attempt)
    assert Delivery.parse(str(delivery)) == delivery


@pytest.mark.parametrize(
    "attempt", ["", ":", ":1:1", ":one", ":0", ":-1", f":{2**31}", ":99999999999999999999", ":1.0"]
)
def test_a_number_that_no_attempt_can_have_is_refused(attempt: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Delivery.parse(f"{uuid7()}{attempt}")


@given(st.text())
def test_any_other_text_is_refused_or_read(name: str) -> None:
    try:
        delivery = Delivery.parse(name)
    except ValueError:
        return
    assert delivery.attempt >= 1
