"""The metrics address of each `headrace up` process."""

from __future__ import annotations

import pytest

from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.metrics import metrics_addresses


def test_ports_of_all_processes_follow_the_metrics_port() -> None:
    assert metrics_addresses(workers=2, port=9464, environment={}) == {
        "gateway": "127.0.0.1:9464",
        "scheduler": "127.0.0.1:9465",
        "worker-1": "127.0.0.1:9466",
        "worker-2": "127.0.0.1:9467",
        "web": "127.0.0.1:9468",
    }


def test_port_zero_gives_each_process_its_own_port() -> None:
    for environment, port in (({}, 0), ({"HEADRACE_WORKER_METRICS_ADDRESS": "127.0.0.1:0"}, None)):
        addresses = metrics_addresses(workers=3, port=port, environment=environment)
        assert len(addresses) >= 3
        assert len(set(addresses.values())) == len(addresses)
        assert not any(address.endswith(":0") for address in addresses.values())


def test_worker_ports_count_up_from_the_variable() -> None:
    environment = {
        "HEADRACE_GATEWAY_METRICS_ADDRESS": "127.0.0.1:9000",
        "HEADRACE_SCHEDULER_METRICS_ADDRESS": "",
        "HEADRACE_WORKER_METRICS_ADDRESS": "[::1]:9100",
        "HEADRACE_WEB_METRICS_ADDRESS": "127.0.0.1:9200",
    }
    assert metrics_addresses(workers=2, port=None, environment=environment) == {
        "gateway": "127.0.0.1:9000",
        "worker-1": "[::1]:9100",
        "worker-2": "[::1]:9101",
        "web": "127.0.0.1:9200",
    }
    assert "web" not in metrics_addresses(workers=1, web=False, port=9000, environment={})
    assert metrics_addresses(workers=2, port=None, environment={}) == {}


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ("127.0.0.1:9000", "gateway and worker-1 would both serve"),
        ("127.0.0.1:8999", "gateway and worker-2 would both serve"),
        ("127.0.0.1:65535", "a port from 0 to 65534"),
        ("127.0.0.1", "a port from 0 to 65534"),
    ],
)
def test_conflicting_or_invalid_ports_are_rejected(worker: str, message: str) -> None:
    environment = {
        "HEADRACE_GATEWAY_METRICS_ADDRESS": "127.0.0.1:9000",
        "HEADRACE_WORKER_METRICS_ADDRESS": worker,
    }
    with pytest.raises(EmbeddedServerError, match=message):
        metrics_addresses(workers=2, port=None, environment=environment)
