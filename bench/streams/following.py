"""Which streams are open, and over which jobs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# How many jobs a stream over many jobs has.
_JOBS: Final = 10


class Kind(StrEnum):
    """A call that streams."""

    JOB = "WatchJob"
    JOBS = "WatchJobs"


class Mix(StrEnum):
    """Which calls the streams are."""

    JOB = "WatchJob"
    JOBS = "WatchJobs"
    # As many of each. A single stream is a WatchJobs.
    BOTH = "mix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream: over its only job, or over all jobs with its label."""

    kind: Kind
    label: str
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a reader opens: its job, or all jobs with its label, from a cursor or from now."""

    kind: Kind
    job_id: str = ""
    label: str = ""
    cursor: str = ""


def streams(mix: Mix, count: int, *, prefix: str) -> list[Stream]:
    """`count` streams over jobs of their own, with labels that begin with `prefix`."""
    kinds = {
        Mix.JOB: (Kind.JOB,),
        Mix.JOBS: (Kind.JOBS,),
        Mix.BOTH: (Kind.JOBS, Kind.JOB),
    }[mix]
    return [
        Stream(kind=kind, label=f"{prefix}-{number}", jobs=1 if kind is Kind.JOB else _JOBS)
        for number in range(count)
        for kind in (kinds[number % len(kinds)],)
    ]


def turns(jobs: Sequence[Sequence[int]], seed: int) -> list[int]:
    """In which order jobs have events: each stream has one in each round, its jobs take turns.

    Args:
        jobs: the numbers of each stream's jobs.
        seed: of the order of the streams.

    Returns:
        Numbers of jobs, to be repeated from the beginning for ever.
    """
    order = list(jobs)
    random.Random(seed).shuffle(order)
    rounds = max(map(len, jobs))
    return [own[number % len(own)] for number in range(rounds) for own in order]


def subjects(following: Sequence[Stream], jobs: Sequence[Sequence[str]]) -> list[Subject]:
    """What readers are to open, given the ids of each stream's jobs."""
    return [
        Subject(kind=Kind.JOB, job_id=own[0])
        if stream.kind is Kind.JOB
        else Subject(kind=Kind.JOBS, label=stream.label)
        for stream, own in zip(following, jobs, strict=True)
    ]


def idle_subjects(count: int) -> list[Subject]:
    """Streams over many jobs of which there is none."""
    return [Subject(kind=Kind.JOBS, label=f"idle-{number}") for number in range(count)]
