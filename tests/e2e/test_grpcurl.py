"""Headrace from a terminal, with the grpcurl that people use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from support.processes import Processes

JOBS = "headrace.v1.JobService"
DEADLINE_S = 30


def grpcurl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs grpcurl to its end."""
    program = shutil.which("grpcurl", path=sysconfig.get_path("scripts"))
    assert program is not None, "grpcurl is not installed: make setup"
    return subprocess.run(
        [program, "-plaintext", "-max-time", str(DEADLINE_S), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S + 10,
        check=False,
    )


def call(address: str, method: str, request: object) -> list[Any]:
    """Calls a method; returns its responses."""
    done = grpcurl("-d", json.dumps(request), address, method)
    assert done.returncode == 0, done.stderr
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].strip()
    return found


def test_it_lists_and_describes_the_services(processes: Processes) -> None:
    listed = grpcurl(processes.gateway_address, "list").stdout.split()
    assert {
        "grpc.health.v1.Health",
        JOBS,
        "headrace.v1.HandlerService",
    } <= set(listed)
    described = grpcurl(processes.gateway_address, "describe", JOBS).stdout
    assert "rpc SubmitJob ( .headrace.v1.SubmitJobRequest )" in described


def test_it_submits_and_watches_to_the_end(processes: Processes) -> None:
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
    [got] = call(processes.gateway_address, f"{JOBS}/GetJob", {"job_id": job_id})
    assert got["job"]["state"] == "JOB_STATE_SUCCEEDED"
    assert got["job"]["result"] == {"value": {"big": 1, "text": "ü", "attempt": 1}}
    watched = call(processes.gateway_address, f"{JOBS}/WatchJob", {"job_id": job_id})
    assert [event for response in watched for event in response["events"]] == events


def test_it_cancels_a_running_job_and_requeues_it(processes: Processes) -> None:
    address = processes.gateway_address
    [submitted] = call(address, f"{JOBS}/SubmitJob", {"job": {"type": "t.forever"}})
    job_id = submitted["job"]["id"]
    cancelled = call(address, f"{JOBS}/CancelJob", {"job_id": job_id})
    assert cancelled[0]["job"]["state"] in {"JOB_STATE_RUNNING", "JOB_STATE_CANCELLED"}
    watched = call(address, f"{JOBS}/WatchJob", {"job_id": job_id})
    assert watched[-1]["events"][-1]["state"] == "JOB_STATE_CANCELLED"
    [again] = call(address, f"{JOBS}/RetryJob", {"job_id": job_id})
    assert again["job"]["state"] == "JOB_STATE_QUEUED"
    call(address, f"{JOBS}/CancelJob", {"job_id": job_id})


def test_it_is_told_every_violation_at_once(processes: Processes) -> None:
    done = grpcurl(
        *("-d", json.dumps({"job": {"type": "No Such Type!", "priority": 101}})),
        processes.gateway_address,
        f"{JOBS}/SubmitJob",
    )
    assert done.returncode != 0
    assert "Code: InvalidArgument" in done.stderr
    assert "job.type" in done.stderr
    assert "job.priority" in done.stderr


def test_a_payload_is_checked_against_its_handlers_schema(processes: Processes) -> None:
    done = grpcurl(
        *("-d", json.dumps({"job": {"type": "t.double", "payload": {"value": {"nr": 1}}}})),
        processes.gateway_address,
        f"{JOBS}/SubmitJob",
    )
    assert "Code: InvalidArgument" in done.stderr
    assert "number" in done.stderr


@pytest.mark.parametrize("service", range(3), ids=["gateway", "scheduler", "worker"])
def test_it_probes_the_health_of_every_service(processes: Processes, service: int) -> None:
    [answer] = call(processes.addresses()[service], "grpc.health.v1.Health/Check", {})
    assert answer == {"status": "SERVING"}


def test_it_lists_the_handlers_with_their_schemas(processes: Processes) -> None:
    [answer] = call(processes.gateway_address, "headrace.v1.HandlerService/ListHandlers", {})
    handlers = {handler["type"]: handler for handler in answer["handlers"]}
    assert {"email", "data_cleaning", "ai_task", "http_request", "square_sum"} <= set(handlers)
    assert handlers["square_sum"]["live_workers"] == 1
    assert "data" in json.dumps(handlers["square_sum"]["payload_schema"])


def test_the_protos_are_where_the_readme_says(processes: Processes) -> None:
    protos = Path(__file__).parents[2] / "protos"
    done = grpcurl(
        *("-import-path", str(protos), "-proto", "headrace/v1/job_service.proto"),
        processes.gateway_address,
        f"{JOBS}/GetStats",
    )
    assert done.returncode == 0, done.stderr
