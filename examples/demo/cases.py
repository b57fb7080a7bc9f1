"""The jobs of the demo and their expected ends."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace import Job, JobSpec, JobState

BULK_SIZE = 1000

# Sentences with the features that VADER evaluates: negation, emphasis and punctuation.
SENTENCES = {
    "The support answered within minutes and solved everything. Wonderful!": "positive",
    "I waited three weeks, and then the parcel arrived broken. Never again.": "negative",
    "The meeting takes place on Tuesday at ten.": "neutral",
}


@dataclass
class Case:
    """One job of the demo.

    Args:
        name: the name in the table.
        spec: the job.
        expected: the expected terminal state.
        check: returns whether the result is correct.
        attempts: the minimum number of attempts; a killed worker adds more.
        cancel: whether to cancel the job after its first progress.
    """

    name: str
    spec: JobSpec
    expected: JobState = JobState.SUCCEEDED
    check: Callable[[Any], bool] = lambda _: True
    attempts: int = 1
    cancel: bool = False
    job: Job | None = field(default=None, init=False)

    def problems(self) -> list[str]:
        """Return the differences from the expected end."""
        if self.job is None:
            return [f"{self.name}: has not ended"]
        found = []
        if self.job.state is not self.expected:
            error = self.job.error.message if self.job.error is not None else "no error"
            found.append(
                f"{self.name}: ended as {self.job.state}, expected {self.expected} ({error})"
            )
        elif self.expected is JobState.SUCCEEDED and not self.check(self.job.result):
            found.append(f"{self.name}: unexpected result {self.job.result!r}")
        if self.job.attempt < self.attempts:
            found.append(
                f"{self.name}: {self.job.attempt} attempts, expected at least {self.attempts}"
            )
        return found


def cases(files: Path) -> list[Case]:
    """Return the single jobs; their input files are copied to `files`."""
    shutil.copy(_penguins_file(), files / "penguins-raw.csv")
    return [
        Case(
            "clean a data set",
            JobSpec("data_cleaning", _CLEANING_PAYLOAD, priority=10),
            check=lambda r: r["rows_in"] == 344 and r["rows_out"] == 342,
        ),
        Case(
            "send a mail",
            JobSpec(
                "email",
                {
                    "to": ["operations@example.com"],
                    "subject": "Headrace is up",
                    "text": "The email handler sent this mail.\n",
                },
            ),
            check=lambda r: r["accepted"] == ["operations@example.com"],
        ),
        *(
            Case(
                f"sentiment {number}",
                JobSpec("ai_task", {"task": "sentiment", "text": sentence}),
                check=_has_label(label),
            )
            for number, (sentence, label) in enumerate(SENTENCES.items(), 1)
        ),
        Case(
            "sum of squares",
            JobSpec("square_sum", {"data": [1, 2, 3]}),
            check=lambda r: r["result"] == 14,
        ),
        Case(
            "sum of cubes",
            JobSpec("cube_sum", {"data": [1, 2, 3]}),
            check=lambda r: r["result"] == 36,
        ),
        Case(
            "sum of a range",
            JobSpec("sum_range", {"start": 1, "end": 20_000_000}, priority=-10),
            check=lambda r: r["result"] == 200_000_010_000_000,
        ),
        Case(
            "delayed by two seconds",
            JobSpec("square_sum", {"data": [2]}, delay=2),
            check=lambda r: r["result"] == 4,
        ),
        Case("fails twice", JobSpec("flaky", {"failures": 2}), attempts=3),
        Case("fails without retries", JobSpec("broken"), expected=JobState.FAILED),
        Case(
            "cancelled while running",
            JobSpec("slow", {"seconds": 600}),
            expected=JobState.CANCELLED,
            cancel=True,
        ),
    ]


def bulk() -> list[JobSpec]:
    """Return a thousand small jobs."""
    return [JobSpec("square_sum", {"data": [number, 1]}) for number in range(BULK_SIZE)]


def _has_label(label: str) -> Callable[[Any], bool]:
    return lambda result: result["label"] == label


def _penguins_file() -> Path:
    """Return the file with raw measurements of Antarctic penguins, which a PyPI package contains.

    K. Gorman, T. Williams, W. Fraser, "Ecological Sexual Dimorphism and Environmental Variability
    within a Community of Antarctic Penguins", PLoS ONE 9(3), 2014.
    """
    # Find the file without importing the package, because it imports pandas.
    found = importlib.util.find_spec("palmerpenguins")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data" / "penguins-raw.csv"


_CLEANING_PAYLOAD = {
    "input": "penguins-raw.csv",
    "null_values": ["", "NA"],
    "normalise": {"column_names": "snake_case", "case": {"sex": "lower"}},
    "rules": {
        "sample_number": {"type": "integer", "required": True, "min": 1},
        "date_egg": {"type": "date", "required": True, "min": "2007-01-01"},
        "culmen_length_mm": {"type": "number", "min": 30, "max": 60},
        "body_mass_g": {"type": "integer", "required": True, "on_violation": "drop"},
        "sex": {"allowed": ["male", "female"]},
        "individual_id": {"pattern": r"N\d+A\d"},
    },
}
