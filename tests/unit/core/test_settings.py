"""Settings from the environment: valid values, limits and conflicts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings

ADDRESSES = ("gateway_address", "scheduler_address", "worker_address")


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "127.1.2.3:50051", "localhost:50051", "[::1]:50051"]
)
def test_loopback_address_is_accepted(name: str, address: str) -> None:
    assert getattr(Settings(**{name: address}), name) == address


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:50051",
        "[::]:50051",
        ":50051",
        "10.0.0.1:50051",
        "127.0.0.1.example.com:50051",
        "localhost.example.com:50051",
        "example.com:50051",
        "127.0.0.1",
        "unix:/tmp/socket",
        "",
    ],
)
def test_nonloopback_address_needs_allow_insecure(name: str, address: str) -> None:
    with pytest.raises(ValidationError, match="HEADRACE_ALLOW_INSECURE=true"):
        Settings(**{name: address})
    assert getattr(Settings(**{name: address}, allow_insecure=True), name) == address


SECURE = {"tls_cert": "server.pem", "tls_key": "server.key", "access_control": True}


def test_gateway_beyond_loopback_needs_tls_and_access_control() -> None:
    address = {"gateway_address": "0.0.0.0:50051"}
    for missing, advice in (
        (("tls_cert", "tls_key"), "HEADRACE_TLS_CERT"),
        (("access_control",), "HEADRACE_ACCESS_CONTROL=true"),
    ):
        partial = {name: value for name, value in SECURE.items() if name not in missing}
        with pytest.raises(ValidationError, match=f"0.0.0.0:50051 .* needs .*{advice}"):
            Settings(**address, **partial)
    assert Settings(**address, **SECURE).exposures() == []


@pytest.mark.parametrize("name", ["scheduler_address", "worker_address"])
def test_health_beyond_loopback_needs_tls_or_plain_health(name: str) -> None:
    address = {name: "0.0.0.0:50052"}
    with pytest.raises(ValidationError, match="HEADRACE_PLAIN_HEALTH=true"):
        Settings(**address)
    assert Settings(**address, plain_health=True).exposures() == []
    assert Settings(**address, tls_cert="a", tls_key="b").exposures() == []


def test_metrics_beyond_loopback_need_tls_or_plain_metrics() -> None:
    address = {"worker_metrics_address": "0.0.0.0:9464"}
    with pytest.raises(ValidationError, match=r"TLS .* or HEADRACE_PLAIN_METRICS=true"):
        Settings(**address)
    assert Settings(**address, tls_cert="a", tls_key="b").exposures() == []
    assert Settings(**address, plain_metrics=True).exposures() == []


def test_allowed_exposures_are_still_listed() -> None:
    settings = Settings(
        gateway_address="0.0.0.0:1", gateway_metrics_address="[::]:2", allow_insecure=True
    )
    assert [line.split()[0] for line in settings.exposures()] == [
        "HEADRACE_GATEWAY_ADDRESS=0.0.0.0:1",
        "HEADRACE_GATEWAY_METRICS_ADDRESS=[::]:2",
    ]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tls_cert": "a"}, "must be set together"),
        ({"tls_key": "a"}, "must be set together"),
        ({"tls_client_certs": "required"}, "HEADRACE_TLS_CLIENT_CERTS=required needs"),
        ({"gateway_mtls_address": "127.0.0.1:1"}, "HEADRACE_GATEWAY_MTLS_ADDRESS needs"),
        ({"tls_cert": "a", "tls_key": "b", "tls_client_ca": "c"}, "has no effect without"),
    ],
)
def test_incomplete_tls_is_rejected(fields: dict[str, str], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Settings(**fields)  # type: ignore[arg-type]


def test_access_control_hides_queue_health_by_default() -> None:
    assert Settings().health_names == "queues"
    assert Settings(access_control=True).health_names == "services"
    assert Settings(access_control=True, health="queues").health_names == "queues"


@pytest.mark.parametrize("prefix", ["", "a b", "a:b", "*", "-a", "a" * 65])
def test_unusual_redis_prefix_is_rejected(prefix: str) -> None:
    with pytest.raises(ValidationError):
        Settings(redis_prefix=prefix)


def test_heartbeat_above_a_third_of_the_lease_is_rejected() -> None:
    Settings(worker_lease=15, worker_beat=5)
    with pytest.raises(ValidationError, match=r"HEADRACE_WORKER_BEAT .* at most a third"):
        Settings(worker_lease=15, worker_beat=5.1)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("", ()),
        ("mail", ("mail",)),
        ("mail,reports", ("mail", "reports")),
        (" mail , reports ,", ("mail", "reports")),
    ],
)
def test_list_setting_is_split_at_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, items: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HEADRACE_WORKER_QUEUES", text)
    monkeypatch.setenv("HEADRACE_HANDLERS", text)
    settings = Settings()
    assert settings.worker_queues == items
    assert settings.handlers == items


def test_watchdog_within_the_lease_is_rejected() -> None:
    Settings(worker_lease=15, worker_watchdog=15.1)
    Settings(worker_watchdog=0)
    with pytest.raises(ValidationError, match="HEADRACE_WORKER_WATCHDOG"):
        Settings(worker_lease=15, worker_watchdog=15)


def test_retention_rules_are_read_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_RETENTION_RULES", "failed=30d,acme=3d")
    policy = Settings(retention=60).retention_policy
    assert policy.of("acme", JobState.FAILED) == timedelta(days=3)
    assert policy.of("default", JobState.FAILED) == timedelta(days=30)
    assert policy.of("default", JobState.SUCCEEDED) == timedelta(minutes=1)
    monkeypatch.setenv("HEADRACE_RETENTION_RULES", "acme/lost=3d")
    with pytest.raises(ValidationError, match="'lost' is not a terminal state"):
        Settings()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h:1/d?ssl=require",
        "postgres://u:p@h:1/d?ssl=require",
        "postgresql+psycopg://u:p@h:1/d?sslmode=require",
    ],
)
def test_database_url_is_converted_to_asyncpg(url: str) -> None:
    settings = Settings(database_url=url)
    assert settings.postgresql_url == "postgresql://u:p@h:1/d?sslmode=require"


@pytest.mark.parametrize(
    "fields",
    [
        {"database_url": "mysql://u:hunter2@h/d"},
        {"database_url": "hunter2"},
        {"redis_url": "http://u:hunter2@h"},
        {"database_url": "postgresql://u:hunter2@h/d", "worker_beat": 100},
    ],
    ids=str,
)
def test_error_contains_no_secret(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**fields)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Settings(database_url="postgresql://u:hunter2@h/d"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_slots", "0"),
        ("worker_slots", "many"),
        ("max_batch_jobs", "1001"),
        ("database_timeout", "0"),
        ("redis_timeout", "-1"),
        ("log_level", "loud"),
        ("dispatch_prefetch", "-1"),
    ],
)
def test_value_out_of_range_is_rejected_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"HEADRACE_{name.upper()}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [problem["loc"] for problem in caught.value.errors()] == [(name,)]


@pytest.mark.parametrize(
    ("text", "builtins"),
    [
        ("true", None),
        ("TRUE", None),
        ("false", ()),
        ("numbers", ("numbers",)),
        ("email, numbers", ("email", "numbers")),
    ],
)
def test_builtin_handlers_accepts_a_boolean_or_a_list(
    text: str, builtins: tuple[str, ...] | None
) -> None:
    assert Settings(builtin_handlers=text).builtins == builtins


def test_unknown_builtin_handler_is_rejected() -> None:
    with pytest.raises(ValidationError, match="'square_sum' is not a built-in handler; use true"):
        Settings(builtin_handlers="numbers,square_sum")


@pytest.mark.parametrize(
    ("values", "served"),
    [
        ({}, ("default",)),
        ({"worker_tenant": "acme"}, ("acme",)),
        ({"worker_tenants": "acme, globex"}, ("acme", "globex")),
        ({"worker_tenants": "acme", "worker_tenant": "acme"}, ("acme",)),
        # Empty means all tenants.
        ({"worker_tenants": "*"}, ()),
    ],
)
def test_worker_serves_the_named_tenants(values: dict[str, Any], served: tuple[str, ...]) -> None:
    assert Settings(**values).served_tenants == served


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"worker_tenants": "acme,*"}, "means all tenants"),
        ({"worker_tenants": "No"}, "is not a tenant"),
        ({"worker_tenants": "acme", "worker_tenant": "globex"}, "differ"),
    ],
)
def test_contradicting_tenants_of_a_worker_are_rejected(
    values: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        Settings(**values)


def test_trusted_proxies_are_networks_and_names_of_certificates() -> None:
    settings = Settings(trusted_proxies="10.0.0.0/8, 2001:db8::1, dns:Web.example.com")
    assert settings.trusted_proxies == ("10.0.0.0/8", "2001:db8::1/128", "dns:web.example.com")


@pytest.mark.parametrize("entry", ["web", "10.0.0.7/8", "0.0.0.0/33", "dns:", "*"])
def test_malformed_trusted_proxy_is_rejected(entry: str) -> None:
    with pytest.raises(ValidationError):
        Settings(trusted_proxies=entry)
