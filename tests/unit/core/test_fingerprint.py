"""A repeated submit is known by its content, also by another version of the gateway."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from headrace_core.domain.job import JobSpec
from headrace_core.domain.retry import RetryOverrides

SPEC = JobSpec(
    type="resize",
    queue="images",
    payload='{"width": 3}',
    priority=2,
    labels={"team": "web", "app": "shop"},
    schedule_time=datetime(2030, 1, 1, tzinfo=UTC),
    timeout=timedelta(seconds=30),
    retry=RetryOverrides(max_attempts=4, initial_backoff=timedelta(seconds=2)),
)


def test_it_is_the_same_in_every_version() -> None:
    # When one of these changes, whoever repeats a submit across an upgrade is turned away.
    assert SPEC.fingerprint().hex() == (
        "ecafffdfd343e2a26bae0a1525d45d3b632189b64c3b7149f588ae40b5e44efa"
    )
    assert JobSpec(type="resize").fingerprint().hex() == (
        "be85e8eea1daa34d60d086b10c5afbd02377bceadfa9a5387f7f29c22ce9017c"
    )


def test_what_was_said_counts() -> None:
    others = [
        replace(SPEC, queue="other"),
        replace(SPEC, payload='{"width": 4}'),
        replace(SPEC, labels={"team": "web"}),
        replace(SPEC, retry=RetryOverrides(max_attempts=4)),
        replace(SPEC, retry=RetryOverrides(max_attempts=5, initial_backoff=timedelta(seconds=2))),
        replace(SPEC, retry=RetryOverrides()),
    ]
    assert len({spec.fingerprint() for spec in (SPEC, *others)}) == 1 + len(others)


def test_the_order_of_labels_does_not_count() -> None:
    turned = replace(SPEC, labels=dict(reversed(SPEC.labels.items())))
    assert turned.fingerprint() == SPEC.fingerprint()
