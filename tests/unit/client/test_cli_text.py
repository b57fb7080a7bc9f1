"""The output of the command line in terminals of all widths."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from headrace import AuditEvent, JobState, QueueStats, Stats, TypeStats
from headrace._convert import from_job
from headrace.cli.stream import Board
from headrace.cli.tables import JobsTable, audit_table, stats_view
from headrace.cli.text import history_text
from headrace.event import JobEvent, JobEventType
from headrace.job import Progress
from headrace.v1 import job_pb2

IDS = [f"0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a{n:02x}" for n in range(3)]
ERROR = "ValueError: line one\nand line two, which is longer than a terminal is wide"


def printed_lines(value, width):
    console = Console(width=width, file=io.StringIO(), highlight=False, markup=False)
    console.print(value)
    return console.file.getvalue().splitlines()


def jobs():
    messages = [
        job_pb2.Job(id=job_id, type="square_sum", queue="default", state=job_pb2.JOB_STATE_QUEUED)
        for job_id in IDS
    ]
    for message in messages:
        message.create_time.GetCurrentTime()
    messages[1].state = job_pb2.JOB_STATE_FAILED
    messages[1].error.type, _, messages[1].error.message = ERROR.partition(": ")
    return [from_job(message) for message in messages]


@pytest.mark.parametrize("width", [50, 60, 70, 80, 100, 132])
def test_list_keeps_ids_states_and_errors_at_any_width(width):
    lines = printed_lines(JobsTable(jobs()), width)

    assert max(map(len, lines)) <= width
    assert [line.split()[:2] for line in lines if line.startswith("0199")] == [
        [IDS[0], "QUEUED"],
        [IDS[1], "FAILED"],
        [IDS[2], "QUEUED"],
    ]
    assert any("ValueError: line one and line two" in line for line in lines)
    assert lines[0].split()[:2] == ["ID", "STATE"]


def test_audit_table_shows_denied_and_anonymous_calls():
    denied = AuditEvent(
        seq=2,
        event_time=None,
        principal="",
        principal_tenant="",
        kind="ANONYMOUS",
        credential="",
        address="10.0.0.7",
        method="JobService/GetJob",
        target="job \x1b[31m",
        denied=True,
        reason="jobs:read",
        count=3,
        hash="00",
    )
    allowed = replace(denied, principal="ada", denied=False, count=1, address="", target="")

    lines = printed_lines(audit_table([denied, allowed]), 200)

    assert lines[0].split() == ["TIME", "PRINCIPAL", "METHOD", "TARGET", "RESULT", "ADDRESS"]
    assert "denied: jobs:read (3 times)" in lines[1]
    assert "\x1b" not in lines[1]
    assert lines[2].split() == ["ada", "JobService/GetJob", "-", "allowed", "-"]


def test_event_line_shows_the_caller_and_its_reason():
    event = JobEvent(
        job_id=IDS[0],
        seq=2,
        type=JobEventType.CANCELLED,
        state=JobState.CANCELLED,
        attempt=0,
        event_time=None,
        job_type="email",
        queue="default",
        principal="ada",
        reason="wrong\x1b recipient",
    )

    assert history_text(event).plain.endswith("CANCELLED by ada: wrong\\x1b recipient")
    assert history_text(replace(event, principal="")).plain.endswith("wrong\\x1b recipient")


def test_list_shortens_ids_in_a_very_narrow_terminal():
    lines = printed_lines(JobsTable(jobs()), 30)

    assert max(map(len, lines)) <= 30
    assert [line.split() for line in lines if line.startswith("…")] == [
        [f"…{IDS[0][-12:]}", "QUEUED"],
        [f"…{IDS[1][-12:]}", "FAILED"],
        [f"…{IDS[2][-12:]}", "QUEUED"],
    ]


def test_list_cuts_a_long_name_before_it_drops_a_column():
    lines = printed_lines(JobsTable([replace(jobs()[0], type="t" * 100)]), 80)

    assert lines[0].split() == ["ID", "STATE", "TYPE", "QUEUE"]
    assert lines[1].split()[2:] == ["t" * 19 + "…", "default"]


def test_list_in_a_wide_terminal_has_one_line_per_job():
    lines = printed_lines(JobsTable(jobs()), 200)

    assert lines[0].split() == ["ID", "STATE", "TYPE", "QUEUE", "SUBMITTED"]
    assert len(lines) == 4
    assert lines[2].endswith(ERROR.replace("\n", " "))


def test_list_at_80_columns_shows_id_state_type_and_queue():
    lines = printed_lines(JobsTable(jobs()), 80)

    assert lines[1].split()[:4] == [IDS[0], "QUEUED", "square_sum", "default"]
    assert len(lines) == 5


@pytest.mark.parametrize(("width", "smallest"), [(60, 1234), (80, 1234567)])
def test_statistics_show_complete_numbers(width, smallest):
    counts = {state: smallest + n for n, state in enumerate(JobState) if state != "UNKNOWN"}
    stats = Stats(
        stats_time=None,
        states=counts,
        queues=(QueueStats(queue="a" * 30, states=counts, age=None),),
        types=(TypeStats(type="b" * 30, states=counts),),
    )
    lines = printed_lines(stats_view(stats), width)

    for number in counts.values():
        assert sum(str(number) in line for line in lines) == 3


@pytest.mark.parametrize("width", [60, 80, 120])
def test_board_shows_progress_beside_its_bar(width):
    board = Board()
    for job_id in IDS:
        board.add(
            JobEvent(
                job_id=job_id,
                seq=3,
                type=JobEventType.PROGRESSED,
                state=JobState.RUNNING,
                attempt=1,
                event_time=None,
                job_type="square_sum",
                queue="default",
                progress=Progress(fraction=0.25, message="a quarter"),
            )
        )
    lines = printed_lines(board, width)

    assert [line.split()[0][-12:] for line in lines[:3]] == [job_id[-12:] for job_id in IDS]
    assert all("25% a" in line for line in lines[:3])
