"""Fixtures for reports on invented measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pytest

from bench.compare.contestant import Contestant, KeptData
from bench.compare.measurement import Measurement
from bench.compare.plan import Plan
from bench.compare.report import Report
from bench.machine import Machine


class Measure(Protocol):
    """Create a measurement."""

    def __call__(
        self,
        figure: str,
        contestant: str,
        case: str,
        rate: float,
        cpu: Mapping[str, float] | None = None,
        **fields: Any,
    ) -> Measurement: ...


@pytest.fixture
def measure() -> Measure:
    def measurement(
        figure: str,
        contestant: str,
        case: str,
        rate: float,
        cpu: Mapping[str, float] | None = None,
        **fields: Any,
    ) -> Measurement:
        defaults = {"round": 1, "values": {"jobs": 100.0, "jobs_per_s": rate}, **fields}
        return Measurement(
            figure=figure, contestant=contestant, case=case, cpu=cpu or {}, **defaults
        )

    return measurement


def _contestant(name: str, title: str, *, durable: bool, keeps: str = "no") -> Contestant:
    return Contestant(
        name=name,
        title=title,
        package=name,
        figures=("A", "B", "C", "D", "E", "F"),
        servers=("postgresql",),
        durable=durable,
        settings="the best",
        keeps=KeptData(row=keeps, history="no", result="no", flushall="all jobs", kill="never"),
    )


@pytest.fixture
def report() -> Report:
    """A report without measurements."""
    contestants = [
        _contestant("headrace", "Headrace", durable=True, keeps="yes"),
        _contestant("pgqueuer", "PgQueuer", durable=True, keeps="yes"),
        _contestant("oban", "Oban", durable=True, keeps="yes"),
        _contestant("celery", "Celery", durable=False),
    ]
    return Report(
        plan=Plan(rounds=1),
        machine=Machine(
            time="2026-11-22",
            commit="0123456789ab",
            cpu="some",
            cores=2,
            memory_gib=8.0,
            system="Linux",
            python="3.11",
            postgresql="18.0",
            packages={"grpcio": "1.0"},
            load=0.0,
        ),
        contestants=contestants,
        versions={one.name: "1.0" for one in contestants},
    )
