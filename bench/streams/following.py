"""The streams of a measurement, and their jobs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Jobs per WatchJobs stream.
_JOBS_PER_STREAM: Final = 10


class Kind(StrEnum):
    """The RPC of a stream."""

    JOB = "WatchJob"
    JOBS = "WatchJobs"


class Mix(StrEnum):
    """The RPCs of all streams."""

    JOB = "WatchJob"
    JOBS = "WatchJobs"
    # The RPCs alternate, starting with WatchJobs.
    BOTH = "mix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream, which follows a single job or all jobs with its label."""

    kind: Kind
    label: str
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The request of a reader: one job or all jobs with a label, from a cursor or from now."""

    kind: Kind
    job_id: str = ""
    label: str = ""
    cursor: str = ""


def streams(mix: Mix, count: int, *, prefix: str) -> list[Stream]:
    """Return `count` streams over disjoint sets of jobs; their labels start with `prefix`."""
    kinds = {
        Mix.JOB: (Kind.JOB,),
        Mix.JOBS: (Kind.JOBS,),
        Mix.BOTH: (Kind.JOBS, Kind.JOB),
    }[mix]
    return [
        Stream(
            kind=kind, label=f"{prefix}-{number}", jobs=1 if kind is Kind.JOB else _JOBS_PER_STREAM
        )
        for number in range(count)
        for kind in (kinds[number % len(kinds)],)
    ]


def event_order(jobs: Sequence[Sequence[int]], seed: int) -> list[int]:
    """Return the order of events: each turn has one event per stream, and rotates through its jobs.

    Args:
        jobs: the numbers of each stream's jobs.
        seed: the random seed for the order of the streams.

    Returns: The numbers of the jobs; the writer repeats this sequence.
    """
    order = list(jobs)
    random.Random(seed).shuffle(order)
    rounds = max(map(len, jobs))
    return [own[number % len(own)] for number in range(rounds) for own in order]


def subjects(following: Sequence[Stream], jobs: Sequence[Sequence[str]]) -> list[Subject]:
    """Return the requests of the readers, given the ids of each stream's jobs."""
    return [
        Subject(kind=Kind.JOB, job_id=own[0])
        if stream.kind is Kind.JOB
        else Subject(kind=Kind.JOBS, label=stream.label)
        for stream, own in zip(following, jobs, strict=True)
    ]


def idle_subjects(count: int) -> list[Subject]:
    """Return WatchJobs requests whose labels match no job."""
    return [Subject(kind=Kind.JOBS, label=f"idle-{number}") for number in range(count)]
