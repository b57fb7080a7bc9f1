"""Write the Grafana dashboard; `make gen` runs it.

    python tools/dashboards.py > deploy/monitoring/dashboard.json

The tables below contain the panels. docs/metrics.md describes the metrics.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The columns of Grafana's grid.
COLUMNS = 24
HEIGHT = 8
STAT_HEIGHT = 4
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
INSTANCE = 'instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel.

    Attributes:
        title: the title.
        description: the meaning of the values.
        queries: the PromQL expressions, each with the legend of its series.
        unit: the unit, by its id in Grafana.
        kind: the kind of the panel, `timeseries` or `stat`.
        stacked: whether the series are stacked.
    """

    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    stacked: bool = False


def quantile(share: float) -> str:
    buckets = f"rate(headrace_stream_commit_to_sent_seconds_bucket{{{INSTANCE}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by (le) ({buckets}))"


def rate(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) (rate({metric}{{{INSTANCE}}}[$__rate_interval]))"


OVERVIEW = (
    Panel(
        "Queued jobs",
        "QUEUED jobs in all queues.",
        [('sum(max by (queue) (headrace_queue_jobs{state="queued"}))', "")],
        kind="stat",
    ),
    Panel(
        "Running jobs",
        "RUNNING jobs in all queues.",
        [('sum(max by (queue) (headrace_queue_jobs{state="running"}))', "")],
        kind="stat",
    ),
    Panel(
        "Oldest queued job",
        "Waiting time of the oldest QUEUED job.",
        [("max(headrace_queue_oldest_job_age_seconds)", "")],
        unit="s",
        kind="stat",
    ),
    Panel(
        "Busy slots",
        "Share of the slots that run attempts.",
        [("sum(headrace_attempts_running) / sum(headrace_slots)", "")],
        unit="percentunit",
        kind="stat",
    ),
    Panel(
        "Leaders",
        "Schedulers that lead. The number should be 1.",
        [("sum(headrace_leading)", "")],
        kind="stat",
    ),
    Panel(
        "Services that are not SERVING",
        "Services with a failed check, and services that do not respond.",
        [('count(headrace_serving == 0 or up{job="headrace"} == 0) or vector(0)', "")],
        kind="stat",
    ),
)

JOBS = (
    Panel(
        "Ended attempts",
        "Attempts that ended per second, by the event that was written.",
        [(rate("headrace_attempts_ended_total", "event"), "{{event}}")],
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Queued jobs by queue",
        "QUEUED jobs. The empty name stands for all queues that no worker names.",
        [('max by (queue) (headrace_queue_jobs{state="queued"})', "{{queue}}")],
        stacked=True,
    ),
    Panel(
        "Running jobs by queue",
        "RUNNING jobs. The empty name stands for all queues that no worker names.",
        [('max by (queue) (headrace_queue_jobs{state="running"})', "{{queue}}")],
        stacked=True,
    ),
    Panel(
        "Age of the oldest queued job",
        "Waiting time of the oldest QUEUED job of each queue.",
        [("max by (queue) (headrace_queue_oldest_job_age_seconds)", "{{queue}}")],
        unit="s",
    ),
)

WORKERS = (
    Panel(
        "Slots",
        "Running attempts and slots of all workers.",
        [
            (f"sum(headrace_attempts_running{{{INSTANCE}}})", "running"),
            (f"sum(headrace_slots{{{INSTANCE}}})", "slots"),
        ],
    ),
    Panel(
        "Running attempts by worker",
        "Attempts that each worker runs.",
        [(f"headrace_attempts_running{{{INSTANCE}}}", "{{instance}}")],
        stacked=True,
    ),
    Panel(
        "Lost leases and abandoned handlers",
        "Lost leases, handlers that ignored their cancellation, and refused writes, per second.",
        [
            (rate("headrace_lease_losses_total", "instance"), "lost leases {{instance}}"),
            (rate("headrace_handlers_left_behind_total", "instance"), "abandoned {{instance}}"),
            (rate("headrace_writes_refused_total", "write"), "refused {{write}}"),
        ],
        unit="ops",
    ),
    Panel(
        "Recovered and pruned jobs",
        "Jobs recovered from lost workers, and jobs removed after their retention, per second.",
        [
            (rate("headrace_jobs_taken_back_total"), "recovered"),
            (rate("headrace_jobs_pruned_total"), "pruned"),
            (rate("headrace_tenant_jobs_deleted_total"), "deleted with tenants"),
        ],
        unit="ops",
    ),
)

STREAMS = (
    Panel(
        "Age of events when sent",
        "Time from the commit of an event until a stream has sent it.",
        [(quantile(0.5), "p50"), (quantile(0.95), "p95"), (quantile(0.99), "p99")],
        unit="s",
    ),
    Panel(
        "Open streams",
        "Open streams by kind.",
        [(f"sum by (kind) (headrace_streams{{{INSTANCE}}})", "{{kind}}")],
        stacked=True,
    ),
    Panel(
        "Lag",
        "Age of the oldest unsent event, and the wait of events for open transactions.",
        [
            (f"headrace_stream_lag_seconds{{{INSTANCE}}}", "unsent {{instance}}"),
            (f"headrace_settled_lag_seconds{{{INSTANCE}}}", "unsettled {{instance}}"),
            (f"headrace_open_transaction_seconds{{{INSTANCE}}}", "transaction {{instance}}"),
        ],
        unit="s",
    ),
    Panel(
        "Resumed and ended streams",
        "Streams per second that resumed, caught up from PostgreSQL or ended for slow readers.",
        [
            (rate("headrace_stream_resumes_total"), "resumed"),
            (rate("headrace_stream_catch_ups_total"), "caught up"),
            (rate("headrace_stream_slow_consumers_total"), "slow consumers"),
            (rate("headrace_stream_cursors_expired_total"), "expired cursors"),
        ],
        unit="ops",
    ),
)

SERVICES = (
    Panel(
        "Available dependencies",
        "1 while the last check of the dependency has passed.",
        [
            (
                f"min by (instance, dependency) (headrace_dependency_available{{{INSTANCE}}})",
                "{{dependency}} {{instance}}",
            )
        ],
    ),
    Panel(
        "HTTP requests",
        "Requests to the web service per second, by status.",
        [(rate("headrace_web_requests_total", "status"), "{{status}}")],
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Processor time",
        "Cores that each process uses.",
        [(rate("process_cpu_seconds_total", "instance"), "{{instance}}")],
    ),
    Panel(
        "Memory",
        "Resident memory of each process.",
        [(f"process_resident_memory_bytes{{{INSTANCE}}}", "{{instance}}")],
        unit="bytes",
    ),
    Panel(
        "Failed runs of loops",
        "Failed runs of background loops per second.",
        [(rate("headrace_loop_failures_total", "loop", "instance"), "{{loop}} {{instance}}")],
        unit="ops",
    ),
    Panel(
        "Certificates",
        "Time until a certificate of each process expires.",
        [
            (
                f"headrace_certificate_expire_timestamp_seconds{{{INSTANCE}}} - time()",
                "{{instance}}",
            )
        ],
        unit="s",
    ),
)

TENANTS = (
    Panel(
        "Used quotas",
        "Used share of the quotas that the database counts.",
        [
            (
                "max by (tenant, quota) (headrace_tenant_usage / headrace_tenant_quota)",
                "{{tenant}} {{quota}}",
            )
        ],
        unit="percentunit",
    ),
    Panel(
        "Rejected calls",
        "Calls per second that a quota rejected.",
        [(rate("headrace_quota_refusals_total", "tenant", "quota"), "{{tenant}} {{quota}}")],
        unit="ops",
    ),
)

# The rows with the number of panels beside each other.
ROWS: Sequence[tuple[str, int, Sequence[Panel]]] = (
    ("Overview", 6, OVERVIEW),
    ("Jobs", 2, JOBS),
    ("Workers", 2, WORKERS),
    ("Streams", 2, STREAMS),
    ("Services", 2, SERVICES),
    ("Tenants", 2, TENANTS),
)


def build_dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, per_line, row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
        )
        y += 1
        width = COLUMNS // per_line
        for first in range(0, len(row), per_line):
            line = row[first : first + per_line]
            height = STAT_HEIGHT if line[0].kind == "stat" else HEIGHT
            for column, panel in enumerate(line):
                place = {"x": column * width, "y": y, "w": width, "h": height}
                panels.append(build_panel(panel, number=len(panels) + 1, place=place))
            y += height
    return {
        "uid": "headrace",
        "title": "Headrace",
        "description": "Jobs, workers, streams and services of Headrace.",
        "tags": ["headrace"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                },
                {
                    "name": "instance",
                    "label": "Process",
                    "type": "query",
                    "datasource": DATASOURCE,
                    "query": {"query": "label_values(headrace_build_info, instance)"},
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": panels,
    }


def build_panel(panel: Panel, *, number: int, place: dict[str, int]) -> dict[str, Any]:
    """Return a panel as Grafana imports it."""
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    json.dump(build_dashboard(), sys.stdout, indent=2)
    sys.stdout.write("\n")
