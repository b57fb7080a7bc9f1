"""Fingerprints: a repeated submit is recognized by its content, across versions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from headrace_core.domain.job import JobSpec
from headrace_core.domain.retry import RetryOverrides
from headrace_core.domain.submission import Repeated, batch_fingerprint, fingerprint

SPEC = JobSpec(
    type="resize",
    queue="images",
    priority=2,
    labels={"team": "web", "app": "shop"},
    schedule_time=datetime(2030, 1, 1, tzinfo=UTC),
    timeout=timedelta(seconds=30),
    retry=RetryOverrides(max_attempts=4, initial_backoff=timedelta(seconds=2)),
)
PAYLOAD = '{"width": 3}'


def test_fingerprint_equals_the_recorded_value() -> None:
    # If the value changed, a submit repeated across an upgrade would be a conflict.
    assert fingerprint(SPEC, PAYLOAD).hex() == (
        "ecafffdfd343e2a26bae0a1525d45d3b632189b64c3b7149f588ae40b5e44efa"
    )
    assert fingerprint(JobSpec(type="resize"), "{}").hex() == (
        "be85e8eea1daa34d60d086b10c5afbd02377bceadfa9a5387f7f29c22ce9017c"
    )


def test_batch_fingerprint_equals_the_recorded_value() -> None:
    specs = Repeated([SPEC, JobSpec(type="resize")], [0, 1, 0])
    assert batch_fingerprint(specs, [PAYLOAD, "{}", "[]"]).hex() == (
        "33e37da9f7b2471e35bdcd2ca5cb438c3df06be5b9c0e7794fab3e37b5be522e"
    )


def test_batch_fingerprint_depends_on_the_job_order() -> None:
    specs = Repeated([SPEC], [0, 0])
    assert batch_fingerprint(specs, ["1", "2"]) != batch_fingerprint(specs, ["2", "1"])


def test_fingerprint_covers_each_requested_field() -> None:
    others = [
        replace(SPEC, queue="other"),
        replace(SPEC, labels={"team": "web"}),
        replace(SPEC, retry=RetryOverrides(max_attempts=4)),
        replace(SPEC, retry=RetryOverrides(max_attempts=5, initial_backoff=timedelta(seconds=2))),
        replace(SPEC, retry=RetryOverrides()),
    ]
    fingerprints = {fingerprint(spec, PAYLOAD) for spec in (SPEC, *others)}
    fingerprints.add(fingerprint(SPEC, '{"width": 4}'))
    assert len(fingerprints) == 2 + len(others)


def test_fingerprint_ignores_the_order_of_labels() -> None:
    reordered = replace(SPEC, labels=dict(reversed(SPEC.labels.items())))
    assert fingerprint(reordered, PAYLOAD) == fingerprint(SPEC, PAYLOAD)


def test_specs_with_equal_content_are_equal_and_hash_equally() -> None:
    copy = replace(SPEC, labels=dict(reversed(SPEC.labels.items())))
    assert copy == SPEC
    assert hash(copy) == hash(SPEC)
    assert replace(SPEC, labels={}) != SPEC
