"""The result of one trial, without its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from faults.evidence import Evidence, Recovery
from faults.invariants import (
    INVARIANTS,
    Verdict,
    count_later_attempts,
    count_repeated_starts,
    repeated_ends,
)
from faults.measure import Figure

# The maximum number of breaches shown for an invariant.
_MAX_SHOWN_BREACHES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of the evidence.

    Attributes:
        jobs, events: their numbers.
        run_again: attempts beyond the first of their job.
        run_twice: attempts that a handler started more than once.
        accepted_twice: jobs with more than one accepted terminal end.
    """

    jobs: int = 0
    events: int = 0
    run_again: int = 0
    run_twice: int = 0
    accepted_twice: int = 0

    @classmethod
    def of(cls, evidence: Evidence) -> Counts:
        """Return the counts of the evidence."""
        return cls(
            jobs=len(evidence.jobs),
            events=len(evidence.events),
            run_again=count_later_attempts(evidence),
            run_twice=count_repeated_starts(evidence),
            accepted_twice=len(repeated_ends(evidence)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one trial.

    Attributes:
        audit: the verdict of `headrace verify`; None if it did not run.
        circumstances: time, commit and machine.
        failure: the error that ended the trial early; empty if the trial has verdicts.
        not_run: the reason why this machine cannot run the scenario; empty if it can.
    """

    scenario: str
    title: str
    seed: int
    short: bool = False
    seconds: float = 0.0
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    recoveries: Sequence[Recovery] = ()
    counts: Counts = field(default_factory=Counts)
    audit: Verdict | None = None
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    not_run: str = ""

    @property
    def good(self) -> bool:
        return (
            not self.not_run
            and not self.failure
            and not any(verdict.broken for verdict in self.verdicts.values())
            and not (self.audit is not None and self.audit.broken)
            and all(figure.good for figure in self.figures)
        )

    @property
    def broken(self) -> bool:
        """True if the trial ran and is not good."""
        return not self.good and not self.not_run

    @property
    def word(self) -> str:
        """The result in one word or phrase: good, broken or not run."""
        return "not run" if self.not_run else "good" if self.good else "broken"

    def problems(self) -> list[str]:
        """Return the problems as lines of text."""
        lines = [f"not run: {self.not_run}"] if self.not_run else []
        lines += [self.failure] if self.failure else []
        for invariant, verdict in self.verdicts.items():
            lines += _breach_lines(f"{invariant} ({INVARIANTS[invariant].promise})", verdict)
        if self.audit is not None:
            lines += _breach_lines("headrace verify", self.audit)
        lines += [f"figure: {figure}" for figure in self.figures if not figure.good]
        return lines

    def document(self) -> dict[str, Any]:
        """Return the result as a JSON document."""
        return {**asdict(self), "good": self.good}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Result:
        """Return the result from its `document`."""
        values = {name: value for name, value in document.items() if name != "good"}
        return cls(
            **values
            | {
                "verdicts": {name: _parse_verdict(one) for name, one in values["verdicts"].items()},
                "figures": [
                    Figure(**one | {"value": _parse_number(one["value"])})
                    for one in values["figures"]
                ],
                "recoveries": [Recovery(**one) for one in values["recoveries"]],
                "counts": Counts(**values["counts"]),
                "audit": _parse_verdict(values["audit"]) if values["audit"] else None,
            }
        )


def _breach_lines(name: str, verdict: Verdict) -> list[str]:
    lines = [f"{name}: {broken}" for broken in verdict.broken[:_MAX_SHOWN_BREACHES]]
    if len(verdict.broken) > _MAX_SHOWN_BREACHES:
        lines.append(f"{name}: and {len(verdict.broken) - _MAX_SHOWN_BREACHES} more")
    return lines


def _parse_verdict(document: Mapping[str, Any]) -> Verdict:
    return Verdict(document["checked"], tuple(document["broken"]))


def _parse_number(value: float | None) -> float:
    # `document` is written with null for NaN.
    return float("nan") if value is None else value
