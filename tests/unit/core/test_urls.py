"""Options in the server URLs."""

from __future__ import annotations

import ssl

import pytest
from pydantic import ValidationError

from headrace_core.runtime.settings import Settings, problems
from headrace_core.store.sql.database import server_arguments

SECRET = "hun%2Fter2"


def settings_error(**fields: str) -> str:
    with pytest.raises(ValidationError) as caught:
        Settings(**fields)
    [problem] = problems(caught.value)
    assert "hun" not in problem
    return problem


def url(query: str, hosts: str = "h:1") -> str:
    return f"postgresql://u:{SECRET}@{hosts}/d?{query}"


@pytest.mark.parametrize(
    ("query", "effective"),
    [
        ("sslmode=require&channel_binding=require", "?sslmode=require"),
        ("connect_timeout=10&keepalives=1&keepalives_idle=30&tcp_user_timeout=5000", ""),
        ("gssencmode=disable&application_name=mine&load_balance_hosts=random", ""),
        (
            "sslrootcert=/etc/ca.pem&sslmode=verify-full",
            "?sslrootcert=%2Fetc%2Fca.pem&sslmode=verify-full",
        ),
        ("options=-c%20statement_timeout%3D5s", "?options=-c%20statement_timeout%3D5s"),
        ("host=/run/postgresql", "?host=%2Frun%2Fpostgresql"),
        ("target_session_attrs=read-write", "?target_session_attrs=read-write"),
    ],
)
def test_database_options_are_honored_or_ignored(query: str, effective: str) -> None:
    settings = Settings(database_url=url(query))
    assert settings.postgresql_url == f"postgresql://u:{SECRET}@h:1/d{effective}"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sslmod=require", "the option sslmod is not supported"),
        ("search_path=x", "set HEADRACE_DATABASE_SCHEMA instead"),
        ("require_auth=scram-sha-256", "the option require_auth is not supported"),
        ("gssencmode=require", "gssencmode must be one of disable, prefer"),
        ("sslmode=yes", "sslmode must be one of disable"),
        ("target_session_attrs=standby", "target_session_attrs must be one of any, primary"),
        ("connect_timeout=soon", "connect_timeout must be a number"),
    ],
)
def test_unknown_database_option_is_rejected_by_name(query: str, reason: str) -> None:
    assert reason in settings_error(database_url=url(query))


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://u:hun/ter2@h/d",
        "postgresql://u:hun?ter2@h/d",
        "postgresql://u:hun#ter2@h/d",
        "postgresql://u:x@h:hunter/d",
        "postgresql://u:x@[hunter/d",
        "postgresql://u:x@h:1,i:hunter/d",
    ],
)
def test_unreadable_url_is_rejected_without_showing_it(bad: str) -> None:
    assert "%2F %3F %23 %40" in settings_error(database_url=bad)
    if "," not in bad:
        assert "%2F %3F %23 %40" in settings_error(redis_url=bad.replace("postgresql", "redis"))


def test_url_connect_timeout_overrides_the_setting() -> None:
    from_url = server_arguments(Settings(database_url=url("connect_timeout=3"), database_timeout=9))
    unlimited = server_arguments(
        Settings(database_url=url("connect_timeout=0"), database_timeout=9)
    )
    assert (from_url["timeout"], unlimited["timeout"]) == (3, 9)


def test_system_certificates_verify_the_server() -> None:
    context = server_arguments(Settings(database_url=url("sslrootcert=system")))["ssl"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize(
    ("query", "hosts", "writes", "wanted"),
    [
        ("", "h:1", True, "primary"),
        ("", "h:1", False, "any"),
        ("target_session_attrs=any", "h:1,i:2", False, "primary"),
        ("host=h,i", "", False, "primary"),
        ("target_session_attrs=read-write", "h:1,i:2", True, None),
    ],
)
def test_services_connect_to_a_primary(
    query: str, hosts: str, writes: bool, wanted: str | None
) -> None:
    arguments = server_arguments(Settings(database_url=url(query, hosts)), writes=writes)
    assert arguments.get("target_session_attrs") == wanted


@pytest.mark.parametrize(
    "good",
    [
        "unix:///run/v.sock?db=5",
        "unix://u:p@/run/v.sock",
        "rediss://h:1/0?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
    ],
)
def test_redis_options_are_honored(good: str) -> None:
    assert Settings(redis_url=good).redis_url.get_secret_value() == good


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("decode_responses=true", "the option decode_responses is not supported"),
        ("protocol=3", "the option protocol is not supported"),
        ("db=five", "db must be a number"),
    ],
)
def test_unknown_redis_option_is_rejected_by_name(query: str, reason: str) -> None:
    assert reason in settings_error(redis_url=f"redis://:{SECRET}@h:1?{query}")


def test_unix_redis_url_needs_a_path() -> None:
    assert "absolute path" in settings_error(redis_url="unix://")
