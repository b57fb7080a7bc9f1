"""Start and end of a service process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from headrace_core.runtime.process import run_service


def fail_if_created(_: object) -> object:
    raise AssertionError("the settings are invalid, but a service was created")


def test_invalid_settings_exit_with_78_and_name_each_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_WORKER_SLOTS", "none")
    monkeypatch.setenv("HEADRACE_REDIS_TIMEOUT", "0")
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "mysql://u:hunter2@h/d")
    assert run_service("tester", fail_if_created) == 78  # type: ignore[arg-type]
    output = capsys.readouterr().err
    lines = output.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("headrace tester: HEADRACE_") for line in lines)
    for name in ("HEADRACE_WORKER_SLOTS", "HEADRACE_REDIS_TIMEOUT", "HEADRACE_DATABASE_URL"):
        assert name in output
    assert "hunter2" not in output
    assert "Value error" not in output


def test_conflicting_settings_exit_with_78(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_GATEWAY_ADDRESS", "0.0.0.0:50051")
    assert run_service("tester", fail_if_created) == 78  # type: ignore[arg-type]
    output = capsys.readouterr().err
    assert output.startswith(
        "headrace tester: HEADRACE_GATEWAY_ADDRESS=0.0.0.0:50051 is not a loopback"
    )
    assert "HEADRACE_ALLOW_INSECURE=true" in output


REFUSED_PROGRAM = textwrap.dedent(
    """
    import sys
    from headrace_core.runtime.process import run_service
    from headrace_core.runtime.settings import StartRefused

    class Refusing:
        def __init__(self, settings): ...
        async def start(self):
            raise StartRefused("the certificate cannot be used")
        async def stop(self): ...

    sys.exit(run_service("tester", Refusing))
    """
)


def test_refused_start_exits_with_78_and_the_reason() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    [line] = done.stderr.splitlines()
    assert "start_refused" in line
    assert "the certificate cannot be used" in line


def test_allowed_exposure_is_announced_loudly() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_PROGRAM],
        env=os.environ
        | {"HEADRACE_GATEWAY_ADDRESS": "0.0.0.0:0", "HEADRACE_ALLOW_INSECURE": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    rule, title, reason, end, *logs = done.stderr.splitlines()
    assert set(rule) == set(end) == {"!"}
    assert title == "headrace tester is INSECURE (HEADRACE_ALLOW_INSECURE=true):"
    assert reason.startswith("- HEADRACE_GATEWAY_ADDRESS=0.0.0.0:0 is not a loopback address")
    assert '"event": "insecure"' in logs[0]
    assert '"level": "warning"' in logs[0]


PROGRAM = textwrap.dedent(
    """
    import sys
    from datetime import timedelta
    from headrace_core.runtime import process
    from headrace_core.domain.errors import Unavailable
    from headrace_core.domain.retry import RetryPolicy
    from headrace_core.runtime.process import run_service

    process._POSTPONED = RetryPolicy(initial_backoff=timedelta(milliseconds=1), jitter=0)
    created = 0

    class Service:
        def __init__(self, settings):
            global created
            created += 1
        async def start(self):
            if sys.argv[1] == "fail":
                raise RuntimeError("it cannot start")
            if sys.argv[1] == "wait" and created < 3:
                raise Unavailable("postgresql") from ConnectionRefusedError("hush")
            print("started", flush=True)
        async def stop(self):
            print("stopped", flush=True)

    sys.exit(run_service("tester", Service))
    """
)


def run(mode: str, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | variables,
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_service_cleanly(signum: signal.Signals) -> None:
    with run("serve") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signum)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "stopped\n")


def test_failed_start_stops_logs_and_exits_with_1() -> None:
    with run("fail") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "stopped\n")
    assert "service_failed" in err
    assert "it cannot start" in err


def test_missing_server_postpones_the_start() -> None:
    with run("wait") as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == [
            "stopped\n",
            "stopped\n",
            "started\n",
        ]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines] == ["start_postponed"] * 2
    assert {line["reason"] for line in lines} == {"ConnectionRefusedError"}
    assert "hush" not in err


def test_misspelled_variable_is_logged_with_a_suggestion() -> None:
    with run("fail", HEADRACE_WORKER_SLOT="5", HEADRACE_TEST_SLOTS="5") as process:
        _, err = process.communicate(timeout=30)
    warnings = [one for one in map(json.loads, err.splitlines()) if one["level"] == "warning"]
    [warning] = warnings
    assert warning["event"] == "unknown_setting"
    assert warning["name"] == "HEADRACE_WORKER_SLOT"
    assert warning["did_you_mean"] == "HEADRACE_WORKER_SLOTS"
