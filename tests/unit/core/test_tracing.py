"""The variables that request traces."""

from __future__ import annotations

import subprocess
import sys

import pytest

from headrace_core.runtime.settings import StartRefused
from headrace_core.runtime.tracing import Exports, Tracing, is_requested


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "jobs"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        (
            {
                "OTEL_TRACES_EXPORTER": "none",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317",
            },
            False,
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_variables_request_traces(variables: dict[str, str], expected: bool) -> None:
    assert is_requested(variables) is expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
    ],
)
def test_unusable_variable_refuses_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartRefused, match="OTEL_BSP_" if "BSP" in name else name):
        Tracing("worker")


def test_missing_extra_refuses_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(StartRefused, match=r"headrace-core\[tracing\]"):
        Tracing("worker")


@pytest.mark.parametrize("service", ["headrace_gateway.service", "headrace_worker.service"])
def test_services_import_no_opentelemetry(service: str) -> None:
    script = f"import sys, {service}; sys.exit('opentelemetry' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_full_queue_drops_spans() -> None:
    exports = Exports()
    assert [exports.admit(1), exports.admit(1)] == [True, False]
    exports.take(1)
    assert exports.admit(1)
    assert exports.lost == 1
