"""The histograms of waits and runs that a scheduler exports."""

from __future__ import annotations

from collections import Counter

import pytest
from prometheus_client import Metric

from headrace_core.domain.durations import LAST_BUCKET, bucket_of
from headrace_core.store.history import JobDurations
from headrace_scheduler import metrics
from headrace_scheduler.metrics import Durations


def durations(*waits: float, run: float = 0.001) -> JobDurations:
    """Return the counts of waits, and of a run, in seconds."""
    return JobDurations(Counter(map(bucket_of, waits)), Counter([bucket_of(run)]))


def samples(family: Metric, suffix: str, **labels: str) -> list[float]:
    return [
        sample.value
        for sample in family.samples
        if sample.name == family.name + suffix and labels.items() <= sample.labels.items()
    ]


def test_durations_of_several_pages_are_added_up() -> None:
    exported = Durations()
    exported.add({("mail", "email"): durations(0.001, 0.3, 20.0)})
    exported.add({("mail", "email"): durations(0.3)})
    waits, runs = exported.collect({"mail"})
    labels = {"queue": "mail", "type": "email"}
    assert samples(waits, "_bucket", le="0.001", **labels) == [1]
    assert samples(waits, "_bucket", le="0.256", **labels) == [1]
    assert samples(waits, "_bucket", le="1.024", **labels) == [3]
    assert samples(waits, "_bucket", le="+Inf", **labels) == [4]
    assert samples(waits, "_count", **labels) == [4]
    # A bucket is at most 19 % wide.
    assert samples(waits, "_sum", **labels)[0] == pytest.approx(20.601, rel=0.1)
    assert samples(runs, "_count", **labels) == [2]


def test_longest_durations_are_counted() -> None:
    exported = Durations()
    exported.add({("mail", "email"): JobDurations(Counter({LAST_BUCKET: 1}), Counter())})
    waits, runs = exported.collect({"mail"})
    assert samples(waits, "_bucket", le="16777.2") == [0]
    assert samples(waits, "_bucket", le="+Inf") == [1]
    assert samples(runs, "_count") == []


def test_queues_that_no_worker_names_share_a_name() -> None:
    exported = Durations()
    exported.add({(f"client{n}", "email"): durations(1.0) for n in range(3)})
    exported.add({("mail", "email"): durations(1.0)})
    waits, _ = exported.collect({"mail"})
    assert samples(waits, "_count", queue="mail") == [1]
    assert samples(waits, "_count", queue="") == [3]
    assert len(samples(waits, "_count")) == 2


def test_number_of_types_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MAX_TYPES", 2)
    exported = Durations()
    for name in ("a", "b", "c", "d", "a"):
        exported.add({("mail", name): durations(1.0)})
    waits, _ = exported.collect({"mail"})
    counts = {name: samples(waits, "_count", type=name) for name in ("a", "b", "c", "")}
    assert counts == {"a": [2], "b": [1], "c": [], "": [2]}
