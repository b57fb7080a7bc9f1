"""Processes that are killed, stopped, or started with invalid settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from headrace import JobEventType, JobState, SyncClient
from support.processes import Processes


def test_job_of_a_killed_worker_succeeds(processes: Processes) -> None:
    with SyncClient(processes.gateway_address) as client:
        job = client.submit("t.flaky_worker", {"number": 0})
        seen = []
        for event in job.watch():
            seen.append(event.type)
            if event.type is JobEventType.WORKER_LOST:
                processes.worker.kill()
                processes.worker.start()
        assert JobEventType.WORKER_LOST in seen
        ended = job.get()
        assert (ended.state, ended.attempt, ended.retries_used) == (JobState.SUCCEEDED, 2, 0)


def test_stream_continues_after_the_gateway_is_killed(processes: Processes) -> None:
    with SyncClient(processes.gateway_address) as client:
        job = client.submit("t.forever")
        seqs = []
        for event in job.watch():
            seqs.append(event.seq)
            if event.type is JobEventType.STARTED:
                processes.gateway.kill()
                processes.gateway.start()
                client.cancel(job.id)
        assert seqs == [1, 2, 3, 4]


def test_jobs_succeed_after_the_scheduler_is_killed(processes: Processes) -> None:
    with SyncClient(processes.gateway_address) as client:
        client.submit("t.echo").result(timeout=30)
        processes.scheduler.kill()
        job = client.submit("t.echo", {"a": 1})
        processes.scheduler.start()
        assert job.result(timeout=30) == {"a": 1, "attempt": 1}


def test_logs_contain_the_events_of_a_job_but_no_payload(processes: Processes) -> None:
    with SyncClient(processes.gateway_address) as client:
        job = client.submit(
            "t.echo", {"secret": "a confidential payload"}, correlation_id="trace-17"
        )
        job.result(timeout=30)
    # The processes have ended, so their logs are complete.
    for server in processes.servers():
        server.stop()
    logs = [server.log.read_text() for server in processes.servers()]
    assert "a confidential payload" not in "".join(logs)
    lines = [json.loads(line) for log in logs for line in log.splitlines() if line.startswith("{")]
    logged = {line["event"]: line for line in lines if line.get("job_id") == job.id}
    assert {"job_submitted", "job_started", "job_succeeded"} <= logged.keys()
    assert logged["job_started"]["attempt"] == 1
    for event in ("job_submitted", "job_started", "job_succeeded"):
        assert logged[event]["correlation_id"] == "trace-17"


def test_service_stops_cleanly_on_sigterm(processes: Processes) -> None:
    for server in (processes.worker, processes.scheduler, processes.gateway):
        assert server.terminate(within=10) == 0, server.log.read_text()


def test_insecure_address_ends_the_start_and_names_the_fix() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "headrace_worker"],
        env={**os.environ, "HEADRACE_WORKER_ADDRESS": "0.0.0.0:0"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert completed.returncode == 78
    assert "HEADRACE_ALLOW_INSECURE=true" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_migration_ends_if_the_database_is_unreachable(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "headrace_core", "migrate"],
        env={**os.environ, "HEADRACE_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert completed.returncode != 0
    assert "database" in completed.stderr.lower()
