"""Every setting of the services, read from the environment with the prefix HEADRACE_.

`.env.example` at the top of the repository lists them all. Each handler defines its own settings.
"""

from __future__ import annotations

import ipaddress
import os
import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from headrace_core.domain.certificate import parse_san
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.job_log import MAX_JOB_LOG_LINES
from headrace_core.domain.limits import (
    MAX_DOCUMENT_BYTES,
    MAX_DURATION,
    MAX_LABELS,
    NAME_RULE,
    is_name,
)
from headrace_core.domain.retention import Retention, parse_rules
from headrace_core.domain.retry import INTERRUPTIONS_BEFORE_OWN_PROCESS
from headrace_core.runtime.urls import check_database_url, check_redis_url, driver_url

# The modules of built-in handlers, named as in HEADRACE_BUILTIN_HANDLERS.
BUILTIN_HANDLERS = ("ai_task", "data_cleaning", "email", "http_request", "numbers")

# The value of HEADRACE_WORKER_TENANTS for all tenants.
ALL_TENANTS = "*"

_SERVICES = ("gateway", "scheduler", "worker", "web")
_TLS = "TLS (HEADRACE_TLS_CERT, HEADRACE_TLS_KEY)"
_PLAIN_HEALTH = "HEADRACE_PLAIN_HEALTH=true"
_PLAIN_METRICS = "HEADRACE_PLAIN_METRICS=true"

DEFAULT_REDIS_PREFIX = "headrace"


class StartRefused(Exception):
    """A service cannot run as configured; the message names the reason and the remedy."""


class Settings(BaseSettings):
    """The settings of all services, read from the environment.

    Durations are seconds, sizes are bytes, addresses are `host:port` (port 0: any free port).

    Raises:
        pydantic.ValidationError: a value is malformed, or two values contradict each other.
    """

    # Errors never contain values, because URLs hold passwords.
    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    # Servers.
    database_url: SecretStr = SecretStr("postgresql://headrace@127.0.0.1:5432/headrace")
    # The schema of the tables. The pattern allows only names that need no quotes in SQL.
    database_schema: str = Field("headrace", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    database_pool_size: int = Field(10, ge=2, le=200)
    database_timeout: float = Field(15.0, gt=0)
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_timeout: float = Field(5.0, gt=0)
    # The first part of each key and channel in Redis.
    redis_prefix: str = Field(DEFAULT_REDIS_PREFIX, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")

    # Logs.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    # Addresses of the services; see `exposures`.
    gateway_address: str = "127.0.0.1:50051"
    # An additional address of the API, whose clients need a certificate; empty for none.
    gateway_mtls_address: str = ""
    scheduler_address: str = "127.0.0.1:50052"
    worker_address: str = "127.0.0.1:50053"
    web_address: str = "127.0.0.1:8080"
    allow_insecure: bool = False
    # Proxies whose `x-forwarded-for` names the caller: networks and names of client certificates.
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    # Whether each call needs a credential.
    access_control: bool = False
    # From a login to the end of the session.
    session_lifetime: float = Field(30 * 86_400.0, gt=0, le=MAX_DURATION.total_seconds())
    # The issuers of accepted tokens, as JSON or as the path of a JSON or TOML file. Only the
    # gateway reads the file.
    issuers: str = ""
    # Addresses at which metrics are served over HTTP; empty for none.
    gateway_metrics_address: str = ""
    scheduler_metrics_address: str = ""
    worker_metrics_address: str = ""
    web_metrics_address: str = ""
    # The PEM files of this process's certificate and its key; empty for no TLS.
    tls_cert: str = ""
    tls_key: str = ""
    # The PEM file with the certificate authorities of clients.
    tls_client_ca: str = ""
    # Whether clients at `gateway_address` need a certificate.
    tls_client_certs: Literal["off", "required"] = "off"
    reflection: bool = False
    # The names whose health the gateway reports to anyone. Empty: `services` with access control,
    # because a queue can belong to a tenant, and otherwise `queues`.
    health: Literal["", "off", "services", "queues"] = ""
    # Whether the health of schedulers and workers is served without TLS, at any address.
    plain_health: bool = False
    # Whether metrics are served without TLS, at any address.
    plain_metrics: bool = False
    # Less than the clients' deadline of 10 s, so calls fail with UNAVAILABLE if a database hangs.
    call_timeout: float = Field(6.0, gt=0)
    # The origins (https://host:port) whose pages may call the web service; empty for its own alone.
    web_origins: Annotated[tuple[str, ...], NoDecode] = ()
    # The URL under which browsers reach the web service.
    web_public_url: str = ""
    # The issuer at which users of the dashboard can log in (OpenID Connect), as JSON or as the path
    # of a JSON or TOML file. The document can contain the secret of a client.
    web_oidc: SecretStr = SecretStr("")
    shutdown_grace: float = Field(10.0, ge=0)

    # Limits.
    max_payload_bytes: int = Field(256 * 1024, ge=2, le=MAX_DOCUMENT_BYTES)
    max_result_bytes: int = Field(256 * 1024, ge=2, le=MAX_DOCUMENT_BYTES)
    max_output_bytes: int = Field(64 * 1024, ge=2, le=MAX_DOCUMENT_BYTES)
    # gRPC's limit is four times this value, and it must fit in 32 bits.
    max_request_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    max_labels: int = Field(32, ge=0, le=MAX_LABELS)
    max_batch_jobs: int = Field(1000, ge=1, le=1000)
    max_connections: int = Field(10_000, ge=1, le=1_000_000)
    # gRPC keeps the metadata of a call, of any size, until the gateway reads it.
    max_concurrent_streams: int = Field(1000, ge=1)
    # A connection without a call is closed after `connection_idle`, and one that does not finish
    # its handshake after `handshake_timeout`.
    connection_idle: float = Field(300.0, ge=1, le=86_400)
    handshake_timeout: float = Field(10.0, ge=0.1, le=120)
    max_pending_submits: int = Field(20_000, ge=1)
    max_subscriptions: int = Field(1000, ge=0)
    stream_queue_events: int = Field(1000, ge=1)
    stream_queue_bytes: int = Field(1024 * 1024, ge=1)
    # Clients consider a stream broken after 60 s of silence.
    stream_idle: float = Field(10.0, gt=0, le=30)
    stream_patience: float = Field(60.0, gt=0)

    # Retention of ended jobs and their events. Rules override it for some tenants and states. Jobs
    # that a subscription has not acknowledged are kept longer, up to `subscription_retention`.
    retention: float = Field(7 * 86_400.0, gt=0)
    retention_rules: str = ""
    subscription_retention: float = Field(30 * 86_400.0, gt=0)
    # Retention of the audit log.
    audit_retention: float = Field(400 * 86_400.0, gt=0)
    # Retention of the counts of each minute.
    history_retention: float = Field(8 * 86_400.0, gt=0)

    # Scheduler.
    dispatch_prefetch: int = Field(400, ge=0)
    redeliver_after: float = Field(10.0, gt=0)
    max_worker_losses: int = Field(3, ge=0)
    # With a lower limit, a worker's other jobs would fail before the job that stops the worker is
    # isolated.
    max_interruptions: int = Field(100, ge=INTERRUPTIONS_BEFORE_OWN_PROCESS)

    # Worker.
    store_stack_traces: bool = True
    # The log of a job: the lowest level, and the maximum lines and bytes of an attempt. With 0
    # lines, no line is kept.
    job_log_level: Literal["debug", "info", "warning", "error"] = "info"
    job_log_lines: int = Field(1000, ge=0, le=MAX_JOB_LOG_LINES)
    job_log_bytes: int = Field(256 * 1024, ge=0, le=16 * 1024 * 1024)
    # The tenants whose jobs the worker runs; `*` for all tenants.
    worker_tenants: Annotated[tuple[str, ...], NoDecode] = ()
    # A single tenant; an older name for `worker_tenants`.
    worker_tenant: str = ""
    worker_queues: Annotated[tuple[str, ...], NoDecode] = ()
    worker_slots: int = Field(100, ge=1, le=10_000)
    worker_processes: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=256)
    worker_lease: float = Field(15.0, gt=0)
    worker_beat: float = Field(5.0, gt=0)
    worker_watchdog: float = Field(30.0, ge=0)
    worker_cancel_grace: float = Field(5.0, ge=0)
    handlers: Annotated[tuple[str, ...], NoDecode] = ()
    builtin_handlers: str = "true"

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        """Split comma-separated lists."""
        for name in (
            "worker_queues",
            "worker_tenants",
            "handlers",
            "web_origins",
            "trusted_proxies",
        ):
            value = values.get(name)
            if isinstance(value, str):
                values[name] = _split_commas(value)
        return values

    @field_validator("retention_rules")
    @classmethod
    def _check_retention_rules(cls, rules: str) -> str:
        parse_rules(rules)
        return rules

    @field_validator("web_origins")
    @classmethod
    def _check_web_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _is_origin(origin):
                raise ValueError(f"{origin!r} is not an origin, such as https://app.example.com")
        return origins

    @field_validator("web_public_url")
    @classmethod
    def _check_web_public_url(cls, url: str) -> str:
        url = url.removesuffix("/")
        if url and not _is_origin(url):
            raise ValueError(f"{url!r} is not a URL without a path, such as https://example.com")
        return url

    @field_validator("trusted_proxies")
    @classmethod
    def _check_trusted_proxies(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_parse_proxy(entry) for entry in entries)

    @field_validator("worker_tenants")
    @classmethod
    def _check_worker_tenants(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name != ALL_TENANTS and not is_name(name):
                raise ValueError(f"{name!r} is not a tenant; a name {NAME_RULE}")
        if ALL_TENANTS in names and len(names) > 1:
            raise ValueError(f"{ALL_TENANTS} means all tenants; remove the other names")
        return names

    @field_validator("builtin_handlers")
    @classmethod
    def _check_builtin_handlers(cls, text: str) -> str:
        unknown = sorted(set(_split_commas(text)) - set(BUILTIN_HANDLERS))
        if text.strip().lower() not in {"true", "false"} and unknown:
            raise ValueError(
                f"{unknown[0]!r} is not a built-in handler; use true, false, or some of "
                f"{', '.join(BUILTIN_HANDLERS)}"
            )
        return text

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: SecretStr) -> SecretStr:
        # The driver in the scheme is replaced by asyncpg.
        if not re.match(r"postgres(ql)?(\+\w+)?://", url.get_secret_value()):
            raise ValueError("must begin with postgresql://")
        check_database_url(url.get_secret_value())
        return url

    @field_validator("database_schema")
    @classmethod
    def _check_database_schema(cls, schema: str) -> str:
        if schema.startswith("pg_") or schema == "information_schema":
            raise ValueError(f"{schema} belongs to PostgreSQL; choose another name")
        return schema

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        check_redis_url(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.worker_beat > self.worker_lease / 3:
            raise ValueError(
                f"HEADRACE_WORKER_BEAT ({self.worker_beat:g} s) must be at most a third of "
                f"HEADRACE_WORKER_LEASE ({self.worker_lease:g} s)"
            )
        if 0 < self.worker_watchdog <= self.worker_lease:
            raise ValueError(
                f"HEADRACE_WORKER_WATCHDOG ({self.worker_watchdog:g} s) must be longer than "
                f"HEADRACE_WORKER_LEASE ({self.worker_lease:g} s), or 0 to disable it"
            )
        if self.worker_tenant and self.worker_tenants not in ((), (self.worker_tenant,)):
            raise ValueError(
                "HEADRACE_WORKER_TENANT and HEADRACE_WORKER_TENANTS differ; set only "
                "HEADRACE_WORKER_TENANTS"
            )
        if self.subscription_retention < self.retention:
            raise ValueError(
                f"HEADRACE_SUBSCRIPTION_RETENTION ({self.subscription_retention:g} s) must be "
                f"at least HEADRACE_RETENTION ({self.retention:g} s)"
            )
        self._check_tls()
        if not self.allow_insecure and (exposures := self.exposures()):
            raise ValueError(
                f"{exposures[0]}. HEADRACE_ALLOW_INSECURE=true starts the service regardless"
            )
        return self

    def _check_tls(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("HEADRACE_TLS_CERT and HEADRACE_TLS_KEY must be set together")
        asking = {
            "HEADRACE_TLS_CLIENT_CERTS=required": self.tls_client_certs == "required",
            "HEADRACE_GATEWAY_MTLS_ADDRESS": bool(self.gateway_mtls_address),
        }
        for name, is_set in asking.items():
            if is_set and not (self.tls_cert and self.tls_client_ca):
                raise ValueError(
                    f"{name} needs HEADRACE_TLS_CERT, HEADRACE_TLS_KEY and HEADRACE_TLS_CLIENT_CA"
                )
        if self.tls_client_ca and not any(asking.values()):
            raise ValueError(f"HEADRACE_TLS_CLIENT_CA has no effect without {' or '.join(asking)}")

    def exposures(self) -> list[str]:
        """Return a sentence for each address beyond loopback that anyone can use or read."""
        calls = []
        if not self.tls_cert:
            calls.append(_TLS)
        if not self.access_control:
            calls.append("access control (HEADRACE_ACCESS_CONTROL=true)")
        health = [] if self.tls_cert or self.plain_health else [f"{_TLS} or {_PLAIN_HEALTH}"]
        metrics = [] if self.tls_cert or self.plain_metrics else [f"{_TLS} or {_PLAIN_METRICS}"]
        missing = {
            "gateway_address": calls,
            "gateway_mtls_address": calls,
            "scheduler_address": health,
            "worker_address": health,
            "web_address": calls,
            **{f"{service}_metrics_address": metrics for service in _SERVICES},
        }
        return [
            f"HEADRACE_{name.upper()}={getattr(self, name)} is not a loopback address and needs "
            + " and ".join(needs)
            for name, needs in missing.items()
            if needs and self._is_exposed(name)
        ]

    def _is_exposed(self, name: str) -> bool:
        """Return whether an address is beyond loopback."""
        address: str = getattr(self, name)
        # Without these addresses, nothing listens; other empty addresses listen everywhere.
        if not address and name.endswith(("_metrics_address", "_mtls_address")):
            return False
        return not _is_loopback(address)

    @property
    def health_names(self) -> Literal["off", "services", "queues"]:
        """Return the names whose health the gateway reports."""
        return self.health or ("services" if self.access_control else "queues")

    @property
    def builtins(self) -> tuple[str, ...] | None:
        """Return the modules of the built-in handlers that a worker loads; None for all."""
        match self.builtin_handlers.strip().lower():
            case "true":
                return None
            case "false":
                return ()
            case _:
                return _split_commas(self.builtin_handlers)

    @property
    def served_tenants(self) -> tuple[str, ...]:
        """Return the tenants whose jobs a worker runs; empty for all tenants."""
        if self.worker_tenants == (ALL_TENANTS,):
            return ()
        return self.worker_tenants or (self.worker_tenant or DEFAULT_TENANT,)

    @property
    def retention_policy(self) -> Retention:
        """Return the retention of ended jobs, by tenant and state."""
        return Retention(
            default=timedelta(seconds=self.retention), rules=parse_rules(self.retention_rules)
        )

    @property
    def postgresql_url(self) -> str:
        """Return the URL of the database for drivers, without ignored options."""
        return driver_url(self.database_url.get_secret_value())


def _split_commas(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parse_proxy(entry: str) -> str:
    """Return a network or the name of a certificate in the form in which it is compared."""
    if entry.startswith(("uri:", "dns:")):
        return parse_san(entry)
    try:
        return str(ipaddress.ip_network(entry))
    except ValueError as error:
        raise ValueError(
            f"{error}; use a network, such as 10.0.0.0/8, or the name of a client certificate, "
            "such as dns:web.example.com"
        ) from None


def _is_origin(text: str) -> bool:
    return re.fullmatch(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:\d{1,5})?", text) is not None


def problems(error: ValidationError) -> list[str]:
    """Return a line for each invalid setting, without its value, which can be secret."""
    return [
        # pydantic adds this prefix to the errors of our validators.
        _setting_prefix(problem["loc"]) + problem["msg"].removeprefix("Value error, ")
        for problem in error.errors()
    ]


def _setting_prefix(location: tuple[int | str, ...]) -> str:
    # An error about several settings has no location; its message names them.
    names = [str(part).upper() for part in location]
    return "_".join(("HEADRACE", *names)) + ": " if names else ""


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
