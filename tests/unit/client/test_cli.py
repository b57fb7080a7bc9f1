"""The command line, in separate processes, against a real server in this process."""

import asyncio
import json
import os
import pty
import shutil
import signal
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from headrace import Client, JobSpec
from headrace._convert import from_subscription
from headrace.cli.tables import subscriptions_table
from headrace.v1 import job_pb2, subscription_service_pb2

JOB_FIELDS = {"id", "type", "queue", "state", "create_time"}
FULL_FIELDS = {"payload", "result", "output"}


async def submit(run, *args):
    ended = await run("submit", *args)
    assert ended.code == 0, ended.err
    return ended.out.strip()


# submit


async def test_submit_prints_only_the_id(run, platform):
    ended = await run("submit", "square_sum", '{"data": [1, 2]}')

    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{next(iter(platform.jobs))}\n"


async def test_submit_passes_all_options(run, platform):
    before = datetime.now(UTC)
    await submit(
        run,
        *("email", "[1]", "--queue", "mail", "--priority", "-5", "--label", "a=b", "-l", "c=d=e"),
        *("--delay", "1.5m", "--timeout", "90", "--deadline", "1h30m", "--max-attempts", "4"),
        *("--no-retry-on", "ValueError", "--no-retry-on", "TIMEOUT", "--request-id", "order-17"),
    )

    request = platform.last_request("SubmitJob")
    spec = request.job
    assert (spec.type, spec.queue, spec.priority) == ("email", "mail", -5)
    assert (spec.payload.json, dict(spec.labels)) == (b"[1]", {"a": "b", "c": "d=e"})
    assert spec.timeout.ToSeconds() == 90
    assert spec.retry_policy.max_attempts == 4
    assert spec.retry_policy.non_retryable_error_types == ["ValueError", "TIMEOUT"]
    assert request.request_id == "order-17"
    delay = spec.schedule_time.ToDatetime(tzinfo=UTC) - before
    assert timedelta(seconds=90) <= delay < timedelta(seconds=120)
    rest = spec.deadline.ToDatetime(tzinfo=UTC) - before
    assert timedelta(minutes=90) <= rest < timedelta(minutes=91)


async def test_submit_with_at_sets_the_schedule_time(run, platform):
    await submit(run, "later", "--at", "2030-01-02T03:04:05+01:00")

    at = platform.last_request("SubmitJob").job.schedule_time.ToDatetime(tzinfo=UTC)
    assert at == datetime(2030, 1, 2, 2, 4, 5, tzinfo=UTC)


async def test_submit_reads_the_payload_from_file_or_stdin(run, platform, tmp_path):
    file = tmp_path / "payload.json"
    file.write_text('{"from": "file"}')
    await submit(run, "wait", f"@{file}")
    assert json.loads(platform.last_request("SubmitJob").job.payload.json) == {"from": "file"}

    ended = await run("submit", "wait", "-", stdin='{"from": "stdin"}')
    assert ended.code == 0
    assert json.loads(platform.last_request("SubmitJob").job.payload.json) == {"from": "stdin"}


async def test_submit_prints_the_job_as_json(run):
    ended = await run("submit", "wait", "-o", "json")

    assert ended.code == 0
    assert ended.json.keys() >= JOB_FIELDS | {"outcome"}
    assert not ended.json.keys() & FULL_FIELDS
    assert (ended.json["state"], ended.json["outcome"]) == ("QUEUED", "CREATED")


async def test_submit_with_a_used_request_id_prints_a_note(run):
    first = await submit(run, "wait", "--request-id", "a")
    again = await run("submit", "wait", "--request-id", "a")

    assert again.out.strip() == first
    assert "the existing job was returned" in again.err


async def test_submit_validate_only_prints_the_outcome(run, platform):
    assert (await run("submit", "square_sum", "--validate-only")).out == "WOULD_RUN\n"
    assert (await run("submit", "unknown", "--validate-only")).out == "NO_WORKER\n"
    assert platform.jobs == {}


async def test_submit_with_watch_prints_all_events(run):
    ended = await run("submit", "square_sum", '{"data": [1]}', "--watch")

    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines.pop() == "1"
    assert [line.split()[3] for line in lines] == [
        "SUBMITTED",
        "STARTED",
        "PROGRESSED",
        "OUTPUT",
        "SUCCEEDED",
    ]
    assert "50% adding added=2" in lines[2]
    assert '"half"' in lines[3]
    assert "\x1b" not in ended.out + ended.err


async def test_submit_of_a_type_without_a_worker_warns(run, platform):
    ended = await run("submit", "wait")

    assert (ended.code, ended.out) == (0, f"{next(iter(platform.jobs))}\n")
    assert "warning: no live worker runs jobs of type wait; the job waits until one" in ended.err
    # A repeated submit does not warn again.
    await run("submit", "wait", "--request-id", "a")
    assert "warning" not in (await run("submit", "wait", "--request-id", "a")).err


async def test_submit_with_wait_prints_the_result(run):
    ended = await run("submit", "square_sum", '{"data": [1, 2, 3]}', "--wait")

    assert (ended.code, ended.out) == (0, "14\n")


async def test_failed_job_has_exit_code_1(run):
    watched = await run("submit", "fails", "--watch", "-o", "jsonl")
    assert watched.code == 1
    assert watched.jsonl[-1]["error"]["message"] == "no good"

    waited = await run("submit", "fails", "--wait")
    assert (waited.code, waited.out) == (1, "")
    assert "ValueError: no good" in waited.err


async def test_cancelled_job_has_exit_code_1(run, start, platform):
    process = await start("submit", "wait", "--wait")
    await platform.until(lambda: sum(platform.started_streams.values()))
    ended = await run("cancel", next(iter(platform.jobs)))
    assert ended.code == 0

    _, err = await process.communicate()

    assert process.returncode == 1
    assert b"was cancelled" in err


@pytest.mark.parametrize("command", [("--wait",), ("--watch",)])
async def test_wait_beyond_its_timeout_has_exit_code_124(run, command):
    ended = await run("submit", "wait", *command, "--timeout-wait", "200ms")

    assert ended.code == 124
    assert "gave up waiting" in ended.err


async def test_call_beyond_its_deadline_has_exit_code_124(start, platform, monkeypatch):
    platform.silent = True
    process = await start("stats")
    await platform.until(lambda: platform.received_calls)
    # The server ends the call early, so the test need not wait for the deadline.
    platform.deadline_exceeded = True
    platform.wake()
    _, err = await process.communicate()

    assert process.returncode == 124
    assert err.startswith(b"error: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "requires an argument"),
        (("x", "{"), "not valid JSON"),
        (("x", "@/no/such/file"), "cannot read the payload"),
        (("x", "--label", "nope"), "key=value"),
        (("x", "--delay", "5 parsecs"), "is not a duration"),
        (("x", "--at", "someday"), "is not a time"),
        (("x", "--priority", "high"), "--priority"),
        (("x", "--delay", "1", "--at", "2030-01-01"), "use only one of"),
        (("x", "--watch", "--wait"), "use only one of"),
        (("x", "--frobnicate"), "--frobnicate"),
    ],
)
async def test_invalid_submit_has_exit_code_2(run, platform, args, message):
    ended = await run("submit", *args)

    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert platform.received_calls == []


async def test_rejected_request_has_exit_code_2(run):
    ended = await run("submit", "invalid type", "--priority", "101")

    assert (ended.code, ended.out) == (2, "")
    assert "  job.type: must be 1 to 100 characters" in ended.err
    assert "  job.priority: must be -100 to 100\n" in ended.err


# watch


async def test_watch_follows_given_jobs_to_their_ends(run, start, platform):
    first, second = await submit(run, "wait"), await submit(run, "wait")
    process = await start("watch", first, second)
    await platform.until(
        lambda: platform.started_streams[first] and platform.started_streams[second]
    )
    platform.finish(first)
    platform.finish(second)

    out, err = await process.communicate()

    assert process.returncode == 0
    assert out.count(b"SUCCEEDED") == 2
    assert b"2 jobs: 2 SUCCEEDED" in err


async def test_watch_of_a_failed_job_has_exit_code_1(run):
    job = (await run("submit", "fails")).out.strip()

    ended = await run("watch", job, "-o", "json")

    assert ended.code == 1
    assert [event["type"] for event in ended.json] == ["SUBMITTED", "STARTED", "FAILED"]


async def test_watch_follows_matching_jobs_until_ctrl_c(run, start, platform):
    process = await start(
        *("watch", "--queue", "mail", "--label", "team=ops", "--type", "wait"),
        *("--state", "queued", "--state", "RUNNING", "-o", "jsonl"),
    )
    await platform.until(lambda: platform.started_streams["*"])
    job = await submit(run, "wait", "--queue", "mail", "--label", "team=ops")
    await submit(run, "wait", "--queue", "mail")
    async with asyncio.timeout(30):
        events = [json.loads(await process.stdout.readline()) for _ in range(2)]

    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()

    assert (process.returncode, out) == (130, b"")
    assert [(event["job_id"], event["state"]) for event in events] == [
        (job, "QUEUED"),
        (job, "RUNNING"),
    ]
    assert f"resume with --since {events[-1]['cursor']}".encode() in err
    assert b"Traceback" not in err
    assert events[-1]["cursor"]
    states = platform.last_request("WatchJobs").filter.states
    assert list(states) == [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING]


async def test_interrupted_json_watch_is_valid_json(run, start, platform):
    process = await start("watch", "-o", "json")
    await platform.until(lambda: platform.started_streams["*"])
    await submit(run, "fails")
    async with asyncio.timeout(30):
        lines = [await process.stdout.readline() for _ in range(4)]

    process.send_signal(signal.SIGINT)
    out, _ = await process.communicate()

    assert process.returncode == 130
    assert [event["seq"] for event in json.loads(b"".join(lines) + out)] == [1, 2, 3]


async def test_watch_beyond_its_timeout_has_exit_code_124(run):
    ended = await run("watch", "--queue", "mail", "--timeout-wait", "0.2s")

    assert ended.code == 124
    assert "--timeout-wait" in ended.err


async def test_watch_with_jobs_and_a_filter_is_rejected(run):
    assert (await run("watch", "a", "--queue", "b")).code == 2


async def test_watch_resumes_from_a_cursor(start, run, platform):
    await submit(run, "wait")

    for option in ("--since", "--cursor"):
        process = await start("watch", option, "1", "-o", "jsonl")
        async with asyncio.timeout(30):
            event = json.loads(await process.stdout.readline())
        process.send_signal(signal.SIGINT)
        await process.communicate()

        assert event["seq"] == 1


async def test_expired_cursor_error_contains_the_oldest_cursor(run, platform):
    await submit(run, "wait")
    platform.prune()
    ended = await run("watch", "--since", "1")

    assert (ended.code, ended.out) == (2, "")
    assert "to start at the oldest stored event: --since 2\n" in ended.err
    assert "error: events after this cursor were pruned" in ended.err


async def test_watch_in_a_terminal_shows_a_live_board(start, run, platform):
    job = await submit(run, "wait")
    platform.progress(job, 0.25, "a quarter")
    ours, theirs = pty.openpty()
    process = await start("watch", job, env={"TERM": "xterm", "COLUMNS": "120"}, stdout=theirs)
    os.close(theirs)
    shown = asyncio.create_task(asyncio.to_thread(read_until, ours, b"a quarter"))
    async with asyncio.timeout(30):
        seen = await shown
        platform.finish(job)
        rest = await asyncio.to_thread(read_until, ours, None)
        await process.wait()
    os.close(ours)

    assert process.returncode == 0
    assert b"\x1b[" in seen
    assert b"25%" in seen
    assert b"SUCCEEDED" in rest


@pytest.mark.parametrize(
    ("command", "summary"),
    [
        (["watch", "{job}"], b"1 job: 1 RUNNING"),
        (["watch", "--type", "wait"], b"resume with --since 3"),
        (["subscription", "watch", "billing"], b"1 job: 1 RUNNING; all acknowledged"),
    ],
)
async def test_summary_stays_below_the_board_after_ctrl_c(start, run, platform, command, summary):
    job = await submit(run, "wait")
    await run("subscription", "create", "billing")
    ours, theirs = pty.openpty()
    process = await start(
        *(part.format(job=job) for part in command),
        env={"TERM": "xterm", "COLUMNS": "100"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    async with asyncio.timeout(30):
        await platform.until(lambda: sum(platform.started_streams.values()))
        platform.progress(job, 0.25, "a quarter")
        await asyncio.to_thread(read_until, ours, b"a quarter")
        process.send_signal(signal.SIGINT)
        rest = await asyncio.to_thread(read_until, ours, None)
        await process.wait()
    os.close(ours)

    assert process.returncode == 130
    # No erase sequence follows the summary.
    assert summary in rest[rest.rindex(b"\x1b[2K") :]


def read_until(descriptor, text):
    """Return the output of a terminal up to `text`, or until its other end is closed."""
    seen = b""
    while text is None or text not in seen:
        try:
            data = os.read(descriptor, 65536)
        except OSError:
            break
        if not data:
            break
        seen += data
    return seen


# subscription


async def create_billing(run, platform, *args):
    """Create the subscription `billing`, and return the server's record of it."""
    assert (await run("subscription", "create", "billing", *args)).code == 0
    return platform.subscriptions.by_name["billing"]


async def test_subscription_is_created_listed_shown_and_deleted(run, platform):
    create = ("subscription", "create", "billing", "--queue", "mail", "--type", "a")
    batch = str(uuid4())
    options = ("--state", "failed", "--label", "team=ml", "--batch", batch, "--since", "0")

    first = await run(*create, *options)
    assert (first.code, first.out, first.err) == (0, "billing\n", "")
    again = await run(*create, *options, "-o", "json")
    assert (again.json["name"], again.json["created"]) == ("billing", False)
    assert "already exists" in again.err
    request = platform.last_request("CreateSubscription")
    assert (request.filter.batch_id, request.cursor) == (batch, "0")
    assert (await run(*create)).code == 2

    platform.backdate(await submit(run, "wait"), timedelta(minutes=90))
    listed = await run("subscription", "list")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", "billing"]
    assert f"queue:mail type:a state:failed label:team=ml batch:{batch}" in listed.out
    (document,) = (await run("subscription", "list", "-o", "jsonl")).jsonl
    assert 90 * 60 <= document["lag"] < 91 * 60
    shown = await run("subscription", "get", "billing")
    for part in ("none", "1h 30m", "never", "queue:mail"):
        assert part in shown.out
    assert (await run("subscription", "get", "billing", "-o", "json")).json["consumer"] == ""

    assert (await run("subscription", "delete", "billing")).code == 0
    assert (await run("subscription", "list")).out == "no subscriptions\n"
    for command in ("get", "delete", "watch"):
        ended = await run("subscription", command, "billing")
        assert (ended.code, ended.out) == (3, ""), command


async def test_printed_event_is_acknowledged(run, start, platform):
    billing = await create_billing(run, platform)
    job = await submit(run, "wait")
    process = await start("subscription", "watch", "billing", "--consumer", "a", "-o", "jsonl")
    async with asyncio.timeout(30):
        events = [json.loads(await process.stdout.readline()) for _ in range(2)]
    await platform.until(lambda: billing.position == 2)

    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()

    assert (process.returncode, out) == (130, b"")
    assert [(event["job_id"], event["seq"]) for event in events] == [(job, 1), (job, 2)]
    assert b"1 job: 1 RUNNING; all acknowledged" in err
    assert b"Traceback" not in err
    assert billing.consumer == "a"


async def test_watch_without_acks_receives_the_events_again(run, start, platform):
    billing = await create_billing(run, platform)
    await submit(run, "wait")
    for _ in range(2):
        process = await start("subscription", "watch", "billing", "--no-ack", "-o", "jsonl")
        async with asyncio.timeout(30):
            lines = [json.loads(await process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert [line["seq"] for line in lines] == [1, 2]
        assert b"sends unacknowledged events again" in err
        assert platform.acks() == []
        await platform.until(lambda: billing.watch is None)

    # No other consumer has taken over the subscription.
    cursor = f"{billing.epoch}:2"
    assert (await run("subscription", "ack", "billing", cursor)).code == 0
    assert platform.acks() == [2]


async def test_unread_output_is_not_acknowledged(run, server, platform):
    billing = await create_billing(run, platform)
    await submit(run, "wait")
    process = await asyncio.create_subprocess_shell(
        f"set -o pipefail; {sys.executable} -m headrace subscription watch billing -o jsonl | true",
        executable="/bin/bash",
        env={"HEADRACE_TARGET": server.target, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    async with asyncio.timeout(30):
        await process.communicate()

    assert process.returncode == 141
    # The pipe may buffer one line that its reader never reads.
    assert billing.position in (0, 1)


async def test_second_consumer_waits_on_standby(run, start, platform):
    billing = await create_billing(run, platform)
    platform.take_over("billing", "another")
    ended = await run("subscription", "watch", "billing", "--timeout-wait", "0.5s")
    assert ended.code == 124
    assert "waiting on standby" in ended.err

    process = await start("subscription", "watch", "billing")
    await platform.until(lambda: platform.started_streams["billing"] == 2)
    platform.release("billing")
    await submit(run, "fails")
    async with asyncio.timeout(30):
        line = await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    await process.communicate()

    assert b"SUBMITTED" in line
    assert billing.position


async def test_replaced_consumer_prints_an_error(run, start, platform):
    billing = await create_billing(run, platform)
    process = await start("subscription", "watch", "billing", "--consumer", "a")
    await platform.until(lambda: billing.watch is not None)
    other = await start("subscription", "watch", "billing", "--consumer", "a")
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    other.send_signal(signal.SIGINT)
    await other.communicate()

    assert process.returncode == 1
    assert b"error: another watch has taken over subscription 'billing'" in err


async def test_deleted_events_can_be_skipped_with_ack(run, platform):
    billing = await create_billing(run, platform)
    await submit(run, "wait")
    platform.prune()
    ended = await run("subscription", "watch", "billing")
    assert ended.code == 2
    (hint,) = [line for line in ended.err.splitlines() if "subscription ack" in line]

    assert (await run(*hint.split()[1:])).code == 0

    assert billing.position == 2


# Other commands


async def test_get_shows_all_fields_of_a_job(run):
    job = await submit(run, "square_sum", '{"data": [3]}', "--label", "team=ml")

    text = await run("get", job)
    assert text.code == 0
    for part in (job, "SUCCEEDED", "team=ml", '"half"', "result", "9"):
        assert part in text.out
    data = await run("-o", "json", "get", job)
    assert (data.json["result"], data.json["output"]) == (9, ["half"])
    assert data.json["payload"] == {"data": [3]}
    assert datetime.fromisoformat(data.json["create_time"]).tzinfo


async def test_control_characters_are_escaped(run, platform):
    job = await submit(run, "fails")
    platform.jobs[job].error.message = "\x1b[2J gone"

    ended = await run("get", job)

    assert "\x1b" not in ended.out
    assert "\\x1b[2J gone" in ended.out


async def test_unknown_job_has_exit_code_3(run):
    unknown = str(uuid4())
    for command in ("get", "events", "output", "watch", "cancel", "retry"):
        ended = await run(command, unknown)
        assert (ended.code, ended.out) == (3, ""), command
        assert ended.err == f"error: job {unknown} does not exist\n"


async def test_list_beyond_its_limit_prints_a_note(run, platform):
    ids = [await submit(run, "fails") for _ in range(3)]

    ended = await run("list", "--limit", "2")
    assert [line.split()[0] for line in ended.out.splitlines()[1:]] == ids[:0:-1]
    assert "ValueError: no good" in ended.out
    assert "more than 2 jobs" in ended.err
    assert len((await run("list", "-o", "json")).json) == 3
    everything = await run("list", "-o", "jsonl")
    assert (len(everything.jsonl), everything.err) == (3, "")


async def test_list_options_become_a_filter(run, platform):
    await run(
        *("list", "--filter", "priority > 3", "--state", "failed", "--state", "cancelled"),
        *("--queue", 'a"b', "--type", "email", "--label", "team=ml"),
    )

    assert platform.last_request("ListJobs").filter == (
        "priority > 3 AND (state = FAILED OR state = CANCELLED)"
        ' AND queue = "a\\"b" AND type = "email" AND labels.team = "ml"'
    )


async def test_list_without_jobs_prints_no_jobs(run):
    assert (await run("list")).out == "no jobs\n"
    assert (await run("list", "-o", "json")).json == []
    assert (await run("list", "-o", "jsonl")).out == ""


async def test_basic_view_omits_fields_of_the_full_view(run):
    job = await submit(run, "fails")

    (listed,) = (await run("list", "-o", "json")).json
    (retried,) = (await run("retry", job, "-o", "json")).json
    basic_view = (await run("get", job, "-o", "json")).json

    assert not FULL_FIELDS & (listed.keys() | retried.keys())
    assert basic_view.keys() >= JOB_FIELDS | FULL_FIELDS
    assert listed["error"] == {"type": "ValueError", "message": "no good", "retryable": False}


async def test_cancel_of_a_running_job_prints_the_request(run, platform):
    job = await submit(run, "wait")
    platform.keeps_running = True

    ended = await run("cancel", job)

    assert ended.out == f"{job} RUNNING cancel requested\n"


async def test_cancel_and_retry_continue_after_an_error(run):
    jobs = [await submit(run, "wait"), await submit(run, "square_sum", '{"data": []}')]

    cancelled = await run("cancel", jobs[1], jobs[0])
    assert cancelled.code == 1
    assert cancelled.out == f"{jobs[0]} CANCELLED\n"
    assert "is SUCCEEDED" in cancelled.err
    retried = await run("retry", jobs[0], "-o", "jsonl")
    assert retried.code == 0
    assert [job["state"] for job in retried.jsonl] == ["QUEUED"]
    assert (await run("cancel")).code == 2


async def test_reasons_are_listed_with_their_events(run):
    job = await submit(run, "wait")

    assert (await run("cancel", job, "--reason", "wrong recipient")).code == 0
    assert (await run("retry", job, "--reason", "recipient corrected")).code == 0
    lines = (await run("events", job)).out.splitlines()
    # The requeued job may have started since.
    reasons = [line for line in lines if line.endswith(("wrong recipient", "recipient corrected"))]
    assert [line.split()[2] for line in reasons][-1] == "REQUEUED"
    assert reasons[0].endswith("wrong recipient")
    assert (await run("cancel", job, "--reason", "r" * 501)).code == 2


async def test_events_and_output_are_listed(run):
    job = await submit(run, "square_sum", '{"data": []}')

    lines = (await run("events", job)).out.splitlines()
    assert [line.split()[1:4] for line in lines] == [
        ["1", "SUBMITTED", "QUEUED"],
        ["2", "STARTED", "RUNNING"],
        ["3", "PROGRESSED", "RUNNING"],
        ["4", "OUTPUT", "RUNNING"],
        ["5", "SUCCEEDED", "SUCCEEDED"],
    ]
    assert (await run("output", job)).out == "half\n"
    (piece,) = (await run("output", job, "-o", "json")).json
    assert (piece["seq"], piece["attempt"], piece["output"]) == (4, 1, "half")
    assert (await run("output", job, "-o", "jsonl")).json == piece
    assert (await run("output", job, "--after-seq", "4")).out == ""
    ended = await run("events", job, "--after-seq", "3", "-o", "jsonl")
    assert [event["seq"] for event in ended.jsonl] == [4, 5]
    assert (await run("events", job, "--after-seq=-1")).code == 2


async def test_stats_and_handlers_are_printed(run, platform):
    assert (await run("stats")).out == "no jobs\n"
    await submit(run, "fails")
    platform.backdate(await submit(run, "queued"), timedelta(minutes=90))

    text = await run("stats")
    assert "FAILED" in text.out
    assert "1h 30m" in text.out
    (queue,) = (await run("stats", "-o", "json")).json["queues"]
    assert 90 * 60 <= queue["age"] < 91 * 60
    assert "Adds squares." in (await run("handlers")).out
    schema = (await run("handlers", "-o", "json")).json[0]["payload_schema"]
    assert schema == {"type": "object"}


async def test_command_without_a_gateway_has_exit_code_5(run, server):
    await server.stop()

    for command in (["stats"], ["submit", "x"], ["watch", "--queue", "x"]):
        ended = await run(*command)
        assert (ended.code, ended.out) == (5, ""), command
        assert "try: headrace up" in ended.err
    await server.start()


async def test_target_option_works_before_and_after_the_command(run, server):
    assert (await run("--target", server.target, "stats")).code == 0
    assert (await run("stats", "--target", f"127.0.0.1:1,{server.target}")).code == 0
    assert (await run("stats", "--target", ",")).code == 2


async def test_help_of_each_command_has_examples(run, platform):
    top = await run("--help")
    assert top.code == 0
    for command in (
        *(
            "submit",
            "watch",
            "get",
            "list",
            "cancel",
            "retry",
            "events",
            "output",
            "stats",
            "handlers",
            "audit",
        ),
        "subscription",
    ):
        assert command in top.out
        page = await run(command, "--help")
        assert page.code == 0
        assert "Examples:" in page.out
        assert f"headrace {command}" in page.out
        assert "\x1b" not in page.out
    for command in ("create", "list", "get", "delete", "watch", "ack"):
        assert command in (await run("subscription", "--help")).out
        page = await run("subscription", command, "--help")
        assert f"Examples:\n  headrace subscription {command}" in page.out
    assert platform.received_calls == []


async def test_closed_pipe_is_not_an_error(run, server):
    for _ in range(3):
        await submit(run, "wait", json.dumps("x" * 100_000))
    process = await asyncio.create_subprocess_shell(
        f"set -o pipefail; {sys.executable} -m headrace list -o jsonl | head -c 1",
        executable="/bin/bash",
        env={"HEADRACE_TARGET": server.target, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    out, err = await process.communicate()

    assert (out, err) == (b"{", b"")
    assert process.returncode in {0, 141}


async def test_cli_without_the_extra_prints_the_installation():
    program = "import sys; sys.modules['cyclopts'] = None; from headrace.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stderr=asyncio.subprocess.PIPE
    )

    _, err = await process.communicate()

    assert process.returncode == 2
    assert b"pip install './clients/python[cli]'" in err


# Commands of other packages


@pytest.fixture
def with_entry_points(server):
    """A function that runs the command line with only the given entry points."""

    async def run(points, *args):
        program = (
            "import sys, importlib.metadata as m\n"
            f"points = [m.EntryPoint(n, v, 'headrace.commands') for n, v in {points!r}]\n"
            "m.entry_points = lambda **_: points\n"
            "def up(*, workers: int = 1) -> int:\n"
            "    'Start it.'\n"
            "    print('workers', workers)\n"
            "    return 7\n"
            "from headrace.cli import main\n"
            f"sys.argv = ['headrace', *{args!r}]\n"
            "main()\n"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"HEADRACE_TARGET": server.target},
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    return run


async def test_command_of_another_package_is_added(with_entry_points):
    points = [("up", "__main__:up")]

    assert await with_entry_points(points, "up", "--workers", "3") == (7, "workers 3\n", "")
    assert "Start it." in (await with_entry_points(points, "--help"))[1]


async def test_up_without_its_package_prints_the_package(with_entry_points):
    code, out, err = await with_entry_points([], "up", "--workers", "3")

    assert (code, out) == (2, "")
    assert "is part of the package headrace-standalone" in err


async def test_broken_command_does_not_affect_other_commands(with_entry_points):
    points = [("up", "nosuchmodule:up")]

    assert (await with_entry_points(points, "stats"))[0] == 0
    code, _, err = await with_entry_points(points, "up")
    assert code == 2
    assert "nosuchmodule" in err
    assert "Traceback" not in err


async def test_get_of_a_failed_job_shows_its_stack_trace(run):
    job = (await run("submit", "fails", "--correlation-id", "trace-17")).out.strip()
    text = (await run("get", job)).out
    # Control characters are escaped.
    assert 'File "a.py", line 1, in \\x1b[2Jf' in text
    assert "trace-17" in text
    data = (await run("get", job, "-o", "json")).json
    assert data["error"]["stack_trace"].startswith("Traceback:\n")
    assert data["correlation_id"] == "trace-17"


async def test_unreadable_fields_are_printed(run, platform):
    job = await submit(run, "wait")
    platform.jobs[job].unreadable_fields.append("deadline")

    (line,) = [line for line in (await run("get", job)).out.splitlines() if "unreadable" in line]
    assert line.split() == ["unreadable", "deadline"]
    assert (await run("get", job, "-o", "json")).json["unreadable_fields"] == ["deadline"]
    (listed,) = (await run("list", "-o", "json")).json
    assert listed["unreadable_fields"] == ["deadline"]


def test_unreadable_filter_is_shown_as_unreadable():
    message = subscription_service_pb2.Subscription(name="billing", unreadable_fields=["filter"])
    found = from_subscription(message)
    (shown,) = subscriptions_table([found]).columns[-1].cells

    assert found.unreadable_fields == ("filter",)
    assert str(shown) == "unreadable"


# Abbreviated ids


async def test_start_of_an_id_finds_its_job(run, platform):
    job_id = await submit(run, "queued")
    ended = await run("get", job_id[:-1].upper(), "-o", "json")
    assert (ended.code, json.loads(ended.out)["id"]) == (0, job_id)


async def test_end_of_an_id_after_an_ellipsis_finds_its_job(run, platform):
    job_id = await submit(run, "queued")
    await submit(run, "queued")
    ended = await run("events", f"…{job_id[-12:]}", "-o", "json")
    assert ended.code == 0, ended.err
    assert {event["job_id"] for event in json.loads(ended.out)} == {job_id}


async def test_ambiguous_id_is_rejected_without_an_effect(run, platform, server):
    # Two of 17 ids end with the same digit.
    async with Client(server.target) as client:
        jobs = await client.submit_many([JobSpec("queued") for _ in range(17)])
    [(digit, _)] = Counter(job.id[-1] for job in jobs).most_common(1)
    ended = await run("cancel", f"…{digit}")
    assert ended.code == 2
    assert f"more than one job id ends with {digit}, for example " in ended.err
    assert not [call for call in platform.received_calls if call.method == "CancelJob"]


@pytest.mark.parametrize("text", ["ffff-ffff", "…ffffffffffff"])
async def test_unknown_abbreviated_id_is_not_found(run, platform, text):
    await submit(run, "queued")
    ended = await run("get", text)
    assert ended.code == 3
    assert "job" in ended.err


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_script_contains_all_commands(run, shell):
    ended = await run("completion", shell)
    assert (ended.code, ended.err) == (0, "")
    for command in ("submit", "watch-token", "subscription", "completion"):
        assert command in ended.out


async def test_shell_completes_states_types_and_job_ids(run, platform):
    job_id = await submit(run, "queued")

    async def complete(*words):
        ended = await run("__complete", *words)
        return dict(line.split("\t") for line in ended.out.splitlines() if "\t" in line)

    assert "failed" in (await run("__complete", "list", "--state", "")).out.splitlines()
    assert "square_sum" in (await run("__complete", "submit", "")).out
    assert (await complete("get", ""))[job_id] == "queued QUEUED"
    assert job_id in await complete("cancel", "")


async def test_completion_without_a_gateway_offers_nothing(run):
    ended = await run("__complete", "get", "", env={"HEADRACE_TARGET": "127.0.0.1:1"})
    assert ended.code == 0
    assert "Traceback" not in ended.out + ended.err


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
async def test_bash_accepts_the_completion_script(run):
    script = (await run("completion", "bash")).out
    process = await asyncio.create_subprocess_exec(
        *("bash", "--norc", "-s"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    steps = "COMP_WORDS=(headrace wat); COMP_CWORD=1; _headrace; echo ${COMPREPLY[@]}\n"
    out, _ = await process.communicate(f"{script}\n{steps}".encode())
    assert set(out.decode().split()) == {"watch", "watch-token"}


# open


async def test_open_prints_the_page_of_a_job(run, platform):
    job_id = await submit(run, "queued")
    env = {"HEADRACE_WEB_URL": "https://jobs.example.com/", "BROWSER": "true"}
    ended = await run("open", job_id[:13], "--print", env=env)
    assert (ended.code, ended.out) == (0, f"https://jobs.example.com/jobs/{job_id}\n")


async def test_open_without_a_job_prints_the_overview(run):
    ended = await run("open", "--print")
    assert (ended.code, ended.out) == (0, "http://127.0.0.1:8080/\n")


async def test_open_rejects_other_urls(run):
    ended = await run("open", "--print", env={"HEADRACE_WEB_URL": "file:///etc/passwd"})
    assert ended.code == 2
    assert "HEADRACE_WEB_URL" in ended.err
