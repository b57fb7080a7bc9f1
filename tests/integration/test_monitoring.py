"""The dashboard, the alerts and the docs of metrics, compared with the metrics of real services."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from headrace_core.runtime.metrics import registry_of
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tracing import SpanMetrics, Tracing
from headrace_gateway.service import Gateway
from headrace_health import CertificateFiles, Health, ServiceMetrics
from headrace_scheduler.service import Scheduler
from headrace_web.service import Web
from headrace_worker.service import WorkerService
from support.certificates import Authority
from support.handlers import handlers
from support.system_servers import system_program

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DOCS = (ROOT / "docs" / "metrics.md").read_text()
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text())
SCALING = yaml.safe_load((MONITORING / "keda.yaml").read_text())
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}

METRIC = re.compile(r"\b(?:headrace|process)_[a-z_]+")


def query_expressions() -> Iterator[str]:
    """Yield the expressions of the dashboard."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def promtool(*arguments: str | Path, stdin: str | None = None) -> None:
    """Run promtool in the folder of the rules, and assert that it succeeds."""
    result = subprocess.run(
        [system_program("promtool"), *arguments],
        cwd=MONITORING,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def get(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        return str(response.read().decode())


@pytest.fixture
async def exported(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """The metrics of each service, in Prometheus' text format."""
    names = ("gateway", "scheduler", "worker", "web")
    settings = settings.model_copy(
        update={f"{name}_metrics_address": "127.0.0.1:0" for name in names}
    )
    gateway = Gateway(settings)
    await gateway.start()
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    services: dict[str, Any] = {
        "scheduler": Scheduler(settings),
        "worker": WorkerService(settings, handlers()),
        "web": web,
    }
    started: list[Any] = [gateway]
    try:
        for service in services.values():
            await service.start()
            started.append(service)
        texts = {
            name: await asyncio.to_thread(get, service.metrics_port)
            for name, service in {"gateway": gateway, **services}.items()
        }
    finally:
        for service in reversed(started):
            await service.stop()
    file = Authority(tmp_path).issue("server", "127.0.0.1")
    certificate = CertificateFiles(cert=file.cert, key=file.key)
    tracing = Tracing("test")
    registry = registry_of(
        ServiceMetrics(health=Health(), certificate=certificate), SpanMetrics(tracing)
    )
    optional = generate_latest(registry).decode()
    await tracing.flush()
    return {**texts, "service with TLS and traces": optional}


def sample_names(exported: dict[str, str]) -> set[str]:
    """Return the names of all possible samples, which expressions use."""
    names = set()
    for text in exported.values():
        for family in text_string_to_metric_families(text):
            names.add(family.name)
            # A family without samples has only its name and its type.
            if family.type == "counter":
                names.add(f"{family.name}_total")
            if family.type == "histogram":
                names |= {f"{family.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    return names


async def test_expressions_and_docs_name_exported_metrics(exported: dict[str, str]) -> None:
    names = sample_names(exported)
    for alert, rule in ALERTS.items():
        unknown = set(METRIC.findall(rule["expr"])) - names
        assert not unknown, f"{alert} uses metrics that no service exports: {unknown}"
    for expression in query_expressions():
        unknown = set(METRIC.findall(expression)) - names
        assert not unknown, f"the dashboard uses metrics that no service exports: {unknown}"
    for expression in scaling_expressions():
        unknown = set(METRIC.findall(expression)) - names
        assert not unknown, f"keda.yaml uses metrics that no service exports: {unknown}"
    unknown = {name for name in METRIC.findall(DOCS) if name.startswith("headrace_")} - names
    assert not unknown, f"docs/metrics.md describes metrics that no service exports: {unknown}"


async def test_docs_describe_each_exported_metric(exported: dict[str, str]) -> None:
    documented = set(METRIC.findall(DOCS))
    for service, text in exported.items():
        for family in text_string_to_metric_families(text):
            if family.name.startswith("headrace_"):
                known = {family.name, f"{family.name}_total"} & documented
                assert known, f"docs/metrics.md lacks {family.name} of the {service}"


async def test_promtool_accepts_all_metrics(exported: dict[str, str]) -> None:
    for text in exported.values():
        promtool("check", "metrics", stdin=text)


def test_alerts_fire_as_their_tests_describe() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_prometheus_configuration_is_valid() -> None:
    promtool("check", "config", "prometheus.yml")


def test_each_alert_has_a_test_and_documentation() -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == set(ALERTS)
    assert set(re.findall(r"^\| `(Headrace\w+)`", DOCS, re.MULTILINE)) == set(ALERTS)
    for rule in ALERTS.values():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}


def scaling_expressions() -> list[str]:
    """Return the expressions by which KEDA scales workers."""
    return [trigger["metadata"]["query"] for trigger in SCALING["spec"]["triggers"]]


def test_scaling_asks_for_a_number_of_workers() -> None:
    spec = SCALING["spec"]
    assert (SCALING["apiVersion"], SCALING["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert 0 < spec["minReplicaCount"] < spec["maxReplicaCount"]
    for trigger in spec["triggers"]:
        assert trigger["type"] == "prometheus"
        # KEDA accepts only text.
        assert isinstance(trigger["metadata"]["threshold"], str)
        assert float(trigger["metadata"]["threshold"]) > 0


def test_dashboard_and_scaling_expressions_are_valid(tmp_path: Path) -> None:
    # Grafana replaces its variables before it sends an expression.
    expressions = [
        expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
        for expression in query_expressions()
    ]
    rules = [
        {"record": f"expression_{number}", "expr": expression}
        for number, expression in enumerate((*expressions, *scaling_expressions()))
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_dashboard_panels_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    for panel in panels:
        assert panel["type"] == "row" or panel["description"]
