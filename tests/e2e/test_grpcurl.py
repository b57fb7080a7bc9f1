"""Headrace from a terminal with grpcurl."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.processes import Processes

JOBS = "headrace.v1.JobService"
SUBSCRIPTIONS = "headrace.v1.SubscriptionService"
DEADLINE_S = 30


def command(*arguments: str) -> list[str]:
    program = shutil.which("grpcurl", path=sysconfig.get_path("scripts"))
    assert program is not None, "grpcurl is not installed: make setup"
    return [program, "-plaintext", "-max-time", str(DEADLINE_S), *arguments]


def grpcurl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run grpcurl and return its exit code and output."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S + 10,
        check=False,
    )


def call(address: str, method: str, request: object) -> list[Any]:
    """Call a method; return its responses."""
    completed = grpcurl("-d", json.dumps(request), address, method)
    assert completed.returncode == 0, completed.stderr
    decoder, text, messages = json.JSONDecoder(), completed.stdout.strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        messages.append(value)
        text = text[end:].strip()
    return messages


def test_reflection_lists_and_describes_the_services(processes: Processes) -> None:
    listed = grpcurl(processes.gateway_address, "list").stdout.split()
    assert {
        "grpc.health.v1.Health",
        JOBS,
        "headrace.v1.HandlerService",
        SUBSCRIPTIONS,
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } <= set(listed)
    described = grpcurl(processes.gateway_address, "describe", JOBS).stdout
    assert "rpc SubmitJob ( .headrace.v1.SubmitJobRequest )" in described


def test_submit_and_watch_prints_events_to_the_end(processes: Processes) -> None:
    responses = call(
        processes.gateway_address,
        f"{JOBS}/SubmitAndWatch",
        {"job": {"type": "t.echo", "payload": {"value": {"big": 1, "text": "ü"}}}},
    )
    job_id = responses[0]["job"]["id"]
    events = [event for response in responses for event in response.get("events", [])]
    assert [event["type"] for event in events] == [
        "JOB_EVENT_TYPE_SUBMITTED",
        "JOB_EVENT_TYPE_STARTED",
        "JOB_EVENT_TYPE_SUCCEEDED",
    ]
    [job] = call(processes.gateway_address, f"{JOBS}/GetJob", {"job_id": job_id})
    assert job["job"]["state"] == "JOB_STATE_SUCCEEDED"
    assert job["job"]["result"] == {"value": {"big": 1, "text": "ü", "attempt": 1}}
    watched = call(processes.gateway_address, f"{JOBS}/WatchJob", {"job_id": job_id})
    assert [event for response in watched for event in response["events"]] == events


def test_max_time_of_the_call_becomes_the_job_deadline(processes: Processes) -> None:
    [submitted] = call(
        processes.gateway_address,
        f"{JOBS}/SubmitJob",
        {"job": {"type": "t.echo"}, "use_call_deadline": True},
    )
    job = submitted["job"]
    create_time, deadline = (
        datetime.fromisoformat(job[name]) for name in ("create_time", "deadline")
    )
    assert timedelta() < deadline - create_time < timedelta(seconds=DEADLINE_S + 5)


def test_running_job_is_cancelled_then_requeued(processes: Processes) -> None:
    address = processes.gateway_address
    [submitted] = call(address, f"{JOBS}/SubmitJob", {"job": {"type": "t.forever"}})
    job_id = submitted["job"]["id"]
    cancelled = call(address, f"{JOBS}/CancelJob", {"job_id": job_id})
    assert cancelled[0]["job"]["state"] in {"JOB_STATE_RUNNING", "JOB_STATE_CANCELLED"}
    events = call(address, f"{JOBS}/WatchJob", {"job_id": job_id})
    assert events[-1]["events"][-1]["state"] == "JOB_STATE_CANCELLED"
    [requeued] = call(address, f"{JOBS}/RetryJob", {"job_id": job_id})
    assert requeued["job"]["state"] == "JOB_STATE_QUEUED"
    call(address, f"{JOBS}/CancelJob", {"job_id": job_id})


def test_invalid_submit_returns_every_violation(processes: Processes) -> None:
    completed = grpcurl(
        *("-d", json.dumps({"job": {"type": "No Such Type!", "priority": 101}})),
        processes.gateway_address,
        f"{JOBS}/SubmitJob",
    )
    assert completed.returncode != 0
    assert "Code: InvalidArgument" in completed.stderr
    assert "job.type" in completed.stderr
    assert "job.priority" in completed.stderr


def test_error_details_are_decoded(processes: Processes) -> None:
    """Decode error details as docs/api.md shows."""
    completed = grpcurl(
        *("-format-error", "-d", json.dumps({"job": {"type": "No Such Type!"}})),
        processes.gateway_address,
        f"{JOBS}/SubmitJob",
    )
    status = json.loads(completed.stderr)
    assert status["code"] == 3
    details = {detail["@type"].rpartition(".")[2]: detail for detail in status["details"]}
    assert details["ErrorInfo"]["reason"] == "INVALID_ARGUMENT"
    assert details["BadRequest"]["field_violations"][0]["field"] == "job.type"


def test_watch_of_a_quiet_job_sends_idle_marks(processes: Processes) -> None:
    address = processes.gateway_address
    [submitted] = call(address, f"{JOBS}/SubmitJob", {"job": {"type": "t.forever"}})
    job_id = submitted["job"]["id"]
    request = json.dumps({"job_id": job_id, "idle_interval": "1s"})
    arguments = command("-d", request, address, f"{JOBS}/WatchJob")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "WATCH_MARK_IDLE" in line:
                break
        else:
            pytest.fail("the stream ended without a mark")
        call(address, f"{JOBS}/CancelJob", {"job_id": job_id})
        assert "JOB_STATE_CANCELLED" in process.stdout.read()
    assert process.returncode == 0


def test_payload_that_violates_its_schema_is_rejected(processes: Processes) -> None:
    completed = grpcurl(
        *("-d", json.dumps({"job": {"type": "t.double", "payload": {"value": {"nr": 1}}}})),
        processes.gateway_address,
        f"{JOBS}/SubmitJob",
    )
    assert "Code: InvalidArgument" in completed.stderr
    assert "number" in completed.stderr


@pytest.mark.parametrize("service", range(3), ids=["gateway", "scheduler", "worker"])
def test_health_of_every_service_is_serving(processes: Processes, service: int) -> None:
    [response] = call(processes.addresses()[service], "grpc.health.v1.Health/Check", {})
    assert response == {"status": "SERVING"}


def test_health_of_a_queue_is_serving(processes: Processes) -> None:
    queue = {"service": "queue/default"}
    [response] = call(processes.gateway_address, "grpc.health.v1.Health/Check", queue)
    assert response == {"status": "SERVING"}
    for address, name in (
        (processes.gateway_address, "queue/No Such Name"),
        (processes.worker_address, "queue/default"),
    ):
        request = json.dumps({"service": name})
        completed = grpcurl("-d", request, address, "grpc.health.v1.Health/Check")
        assert "Code: NotFound" in completed.stderr
    probe = [sys.executable, "-m", "headrace_health", "probe", processes.gateway_address]
    completed = subprocess.run(
        [*probe, "--service", "queue/default"], capture_output=True, text=True, check=False
    )
    assert (completed.returncode, completed.stdout) == (0, "SERVING\n")


def test_health_watch_follows_the_workers_of_a_queue(processes: Processes) -> None:
    watch = subprocess.Popen(
        command(
            *("-d", json.dumps({"service": "queue/default"})),
            *(processes.gateway_address, "grpc.health.v1.Health/Watch"),
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watch.stdout is not None
    statuses = (json.loads(f"{{{line}}}")["status"] for line in watch.stdout if "status" in line)
    try:
        assert next(statuses) == "SERVING"
        processes.worker.kill()
        # A killed worker does not unregister, so its lease must lapse first.
        assert next(statuses) == "NOT_SERVING"
        processes.worker.start()
        assert next(statuses) == "SERVING"
        processes.worker.stop()
        assert next(statuses) == "NOT_SERVING"
    finally:
        watch.kill()
        watch.communicate()


def test_handlers_are_listed_with_their_schemas(processes: Processes) -> None:
    [response] = call(processes.gateway_address, "headrace.v1.HandlerService/ListHandlers", {})
    handlers = {handler["type"]: handler for handler in response["handlers"]}
    assert {"email", "data_cleaning", "ai_task", "http_request", "square_sum"} <= set(handlers)
    assert handlers["square_sum"]["live_workers"] == 1
    assert "data" in json.dumps(handlers["square_sum"]["payload_schema"])


def first_events(address: str, method: str, request: object) -> dict[str, Any]:
    """Return the first response of a watch that contains events."""
    arguments = command("-d", json.dumps(request), address, method)
    decoder, text = json.JSONDecoder(), ""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            for line in watch.stdout:
                text += line
                # A response ends with an unindented brace.
                if line.rstrip() in {"}", "{}"}:
                    response = decoder.decode(text)
                    if "events" in response:
                        return response
                    text = ""
        finally:
            watch.terminate()
    pytest.fail("the watch ended without events")


def test_subscription_repeats_an_event_until_acknowledged(processes: Processes) -> None:
    address = processes.gateway_address
    subscription = {"name": "grpcurl", "filter": {"labels": {"for": "grpcurl"}}}
    [created] = call(address, f"{SUBSCRIPTIONS}/CreateSubscription", subscription)
    assert created["created"]
    job = {
        "type": "t.forever",
        "labels": {"for": "grpcurl"},
        "schedule_time": "2100-01-01T00:00:00Z",
    }
    [submitted] = call(address, f"{JOBS}/SubmitJob", {"job": job})
    watch = {"name": "grpcurl", "consumer": "terminal"}
    for _ in range(2):
        response = first_events(address, f"{SUBSCRIPTIONS}/WatchSubscription", watch)
        [event] = response["events"]
        assert event["job_id"] == submitted["job"]["id"]
        assert event["type"] == "JOB_EVENT_TYPE_SUBMITTED"
    [acknowledged] = call(
        *(address, f"{SUBSCRIPTIONS}/AckSubscription"),
        {"name": "grpcurl", "cursor": response["cursor"]},
    )
    assert acknowledged == {}
    call(address, f"{JOBS}/CancelJob", {"job_id": submitted["job"]["id"]})
    [event] = first_events(address, f"{SUBSCRIPTIONS}/WatchSubscription", watch)["events"]
    assert (event["seq"], event["type"]) == ("2", "JOB_EVENT_TYPE_CANCELLED")
    [listed] = call(address, f"{SUBSCRIPTIONS}/ListSubscriptions", {})
    assert [one["name"] for one in listed["subscriptions"]] == ["grpcurl"]
    assert "ack_time" in listed["subscriptions"][0]
    call(address, f"{SUBSCRIPTIONS}/DeleteSubscription", {"name": "grpcurl"})
    completed = grpcurl(
        *("-d", '{"name": "grpcurl"}', address, f"{SUBSCRIPTIONS}/WatchSubscription")
    )
    assert "Code: NotFound" in completed.stderr


def test_protos_are_in_the_documented_folder(processes: Processes) -> None:
    protos = Path(__file__).parents[2] / "protos"
    completed = grpcurl(
        *("-import-path", str(protos), "-proto", "headrace/v1/job_service.proto"),
        processes.gateway_address,
        f"{JOBS}/GetStats",
    )
    assert completed.returncode == 0, completed.stderr
