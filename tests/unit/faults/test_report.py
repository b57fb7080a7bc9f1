"""Tests of the report: it lists every broken and every missing trial."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from faults import page, report
from faults.choice import choose
from faults.evidence import Recovery
from faults.invariants import Verdict
from faults.measure import Figure
from faults.result import Counts, Result
from faults.scenario import Scenario, find_scenarios
from faults.trial import Trial


async def run_nothing(_: Trial) -> None:
    pass


def scenario(number: int, *, seconds: float = 60.0) -> Scenario:
    return Scenario(
        id=f"F{number}",
        title=f"fault {number}",
        shows=(),
        run=run_nothing,
        usual=seconds,
        usual_short=seconds,
    )


GOOD_RESULT = Result(
    scenario="F1",
    title="fault 1",
    seed=17,
    seconds=61.0,
    verdicts={"I1": Verdict(10, ()), "I10": Verdict(1, ())},
    figures=[Figure(name="slowest", value=1.5, unit="s", at_most=2.0)],
    recoveries=[Recovery(what="crash", before=60.0, seconds=2.2, limit=15.0)],
    counts=Counts(jobs=10, events=30, run_again=2),
    audit=Verdict(30, ()),
    circumstances={
        "time": "2026-11-22T10:00:00+00:00",
        "commit": "abc",
        "cpu": "a processor",
        "cores": 2,
        "memory_gib": 8.0,
        "system": "Linux 6",
        "python": "3.13.1",
        "load": 0.5,
    },
)
BROKEN_RESULT = Result(
    scenario="F1",
    title="fault 1",
    seed=18,
    verdicts={"I1": Verdict(10, tuple(f"job {n} is | missing" for n in range(9)))},
    figures=[Figure(name="slowest", value=math.nan, unit="s", at_most=2.0)],
    recoveries=[Recovery(what="crash", before=60.0, seconds=None)],
    audit=Verdict(30, ("job 7 has two ends",)),
    circumstances=GOOD_RESULT.circumstances,
)
FAILED_RESULT = Result(
    scenario="F2", title="fault 2", seed=3, failure="TimeoutError: \nnot in time"
)
NOT_RUN_RESULT = Result(scenario="F1", title="fault 1", seed=4, not_run="there is no compiler")


def test_each_kind_of_breach_is_a_problem() -> None:
    assert GOOD_RESULT.good
    assert GOOD_RESULT.problems() == []
    assert not BROKEN_RESULT.good
    problems = "\n".join(BROKEN_RESULT.problems())
    assert "I1" in problems
    assert "and 4 more" in problems
    assert "headrace verify: job 7 has two ends" in problems
    assert "figure: slowest nan s" in problems
    audited = Result(scenario="F1", title="", seed=1, audit=Verdict(1, ("an orphan",)))
    assert not audited.good
    assert not FAILED_RESULT.good


def test_json_restores_the_trials() -> None:
    text = report.as_json([GOOD_RESULT, BROKEN_RESULT, FAILED_RESULT])
    assert "NaN" not in text
    assert [trial["good"] for trial in json.loads(text)] == [True, False, False]


def test_written_report_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "report.json"
    report.write(report.as_json([GOOD_RESULT, BROKEN_RESULT, FAILED_RESULT]), file)
    good, broken, failed = report.read_json(file)
    assert good.document() == GOOD_RESULT.document()
    assert broken.problems() == BROKEN_RESULT.problems()
    assert failed.problems() == FAILED_RESULT.problems()
    assert [one.name for one in file.parent.iterdir()] == ["report.json"]


def test_markdown_lists_broken_trials() -> None:
    text = report.as_markdown([GOOD_RESULT, BROKEN_RESULT, FAILED_RESULT])
    assert "| F1 | 17 |" in text
    assert "| F1 **broken** | 18 |" in text
    assert "**slowest nan s (≤ 2)**" in text
    assert "- F2, seed 3: TimeoutError: not in time" in text
    assert "2026-11-22: commit abc, a processor, 2 cores" in text
    rows = [line for line in text.splitlines() if line.startswith("| F")]
    assert all(row.replace("\\|", "").count("|") == 12 for row in rows)


def test_page_lists_scenarios_without_a_trial(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"# Words\n\n{page.BEGIN}\nwhat was\n{page.END}\n\nMore words.\n")
    page.publish([scenario(1), scenario(2), scenario(3)], [GOOD_RESULT, FAILED_RESULT], file)
    text = file.read_text()
    assert text.startswith("# Words\n")
    assert text.endswith("More words.\n")
    assert "what was" not in text
    assert "| F1 | fault 1 | holds | 1 (17) | ≤ 2.2 s | 0 | 0 | clean |" in text
    assert "| F2 | fault 2 | **broken in 1 of 1** |" in text
    assert "| F3 | fault 3 | **no trial** |" in text
    assert "- slowest 1.5 s (≤ 2)" in text


def test_page_shows_the_worst_of_all_trials() -> None:
    text = page.section([scenario(1)], [GOOD_RESULT, BROKEN_RESULT])
    assert "**broken in 1 of 2**" in text
    assert "≤ 2.2 s, 1 never" in text
    assert "**1 not clean**" in text
    assert "- **slowest nan s (≤ 2)**" in text
    assert "slowest 1.5" not in text


def test_page_without_marks_is_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(page.BEGIN)
    with pytest.raises(ValueError, match="end"):
        page.publish([], [], file)
    assert file.read_text() == page.BEGIN


def test_choice_fits_and_depends_only_on_the_seed() -> None:
    all_of_them = [scenario(number, seconds=40.0 * number) for number in range(1, 11)]
    choices = [choose(all_of_them, seed=n, budget=480, short=True) for n in range(50)]
    for number, chosen in enumerate(choices):
        used = sum(one.usual for one in chosen)
        assert used <= 480
        # No other scenario fits into the rest of the budget.
        assert all(one in chosen or used + one.usual > 480 for one in all_of_them)
        assert chosen == choose(all_of_them, seed=number, budget=480, short=True)
    assert {one.id for chosen in choices for one in chosen} == {one.id for one in all_of_them}


def test_all_scenarios_fit_into_their_time() -> None:
    scenarios = find_scenarios().values()
    assert sum(one.usual for one in scenarios) <= 55 * 60
    # Every scenario appears in some ten-minute choice.
    assert all(one.usual_short <= 8 * 60 for one in scenarios)


def test_skipped_trial_is_neither_good_nor_broken() -> None:
    assert not NOT_RUN_RESULT.good
    assert not NOT_RUN_RESULT.broken
    assert "F1 **not run**" in report.as_markdown([NOT_RUN_RESULT])
    assert "there is no compiler" in report.as_markdown([NOT_RUN_RESULT])
    assert "holds" not in page.section([scenario(1)], [NOT_RUN_RESULT])
    assert "**not run**, seed 4" in page.section([scenario(1)], [NOT_RUN_RESULT])
