"""Supported, ignored and rejected options in server URLs.

docs/production.md lists the options. Errors never quote a value, because it can be part of a
password.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

# libpq options that asyncpg or the server reads.
_SUPPORTED_OPTIONS: Final = frozenset(
    (
        "host",
        "port",
        "dbname",
        "user",
        "password",
        "passfile",
        "service",
        "options",
        "target_session_attrs",
        "connect_timeout",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "krbsrvname",
        "gsslib",
    )
)
# libpq options that have no effect here. Each connection and statement has a deadline, and asyncpg
# supports neither channel binding nor GSSAPI encryption.
_IGNORED_OPTIONS: Final = frozenset(
    (
        "application_name",
        "fallback_application_name",
        "client_encoding",
        "channel_binding",
        "gssencmode",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "load_balance_hosts",
        "sslcompression",
        "sslsni",
    )
)
_HINTS: Final[Mapping[str, str]] = {
    "search_path": "set HEADRACE_DATABASE_SCHEMA instead",
    "schema": "set HEADRACE_DATABASE_SCHEMA instead",
    "currentSchema": "set HEADRACE_DATABASE_SCHEMA instead",
}
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    # Services write, so they cannot use a standby.
    "target_session_attrs": ("any", "primary", "read-write"),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "gssencmode": ("disable", "prefer"),
}
# Supported options that asyncpg does not accept in a URL.
_OWN_OPTIONS: Final = frozenset({"connect_timeout"})

_REDIS_OPTIONS: Final = frozenset(
    (
        "db",
        "username",
        "password",
        "socket_timeout",
        "socket_connect_timeout",
        "health_check_interval",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_cert_reqs",
        "ssl_check_hostname",
    )
)


def check_database_url(url: str) -> None:
    """Check a PostgreSQL URL.

    Raises:
        ValueError: the URL is malformed, or has an option that is not supported.
    """
    options = database_options(url)
    for name in options:
        if name not in _SUPPORTED_OPTIONS | _IGNORED_OPTIONS:
            hint = _HINTS.get(name, "write a server setting as options=-c%20name%3Dvalue")
            raise ValueError(f"the option {name} is not supported; {hint}")
    for name, choices in _CHOICES.items():
        if name in options and options[name] not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}")
    if not options.get("connect_timeout", "0").isdigit():
        raise ValueError("connect_timeout must be a number of seconds")


def database_options(url: str) -> dict[str, str]:
    """Return the options of a PostgreSQL URL, with SQLAlchemy's `ssl` as `sslmode`.

    Raises:
        ValueError: the URL is malformed.
    """
    parts = _split(url)
    # A URL can have several hosts, each with or without a port.
    for host in parts.netloc.rpartition("@")[2].split(","):
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
        if port and not port.isdigit():
            raise _malformed_url()
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "ssl" in options:
        options["sslmode"] = options.pop("ssl")
    return options


def driver_url(url: str) -> str:
    """Return a PostgreSQL URL for asyncpg and psycopg.

    The driver name in the scheme and the ignored options are removed.
    """
    kept = {
        name: value
        for name, value in database_options(url).items()
        if name not in _IGNORED_OPTIONS | _OWN_OPTIONS
    }
    rest = url.partition("://")[2].partition("?")[0]
    return f"postgresql://{rest}" + (f"?{urlencode(kept, quote_via=quote)}" if kept else "")


def check_redis_url(url: str) -> None:
    """Check a Redis URL.

    Raises:
        ValueError: the URL is malformed, or has an option that is not supported.
    """
    parts = _split(url)
    try:
        _ = parts.port
    except ValueError:
        raise _malformed_url() from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in _REDIS_OPTIONS:
            raise ValueError(f"the option {name} is not supported")
    if not options.get("db", "0").isdigit():
        raise ValueError("db must be a number")
    if parts.scheme == "unix" and not parts.path.startswith("/"):
        raise ValueError("a unix:// URL needs the absolute path of the socket")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _malformed_url() from None
    # An unescaped / ? or # in a password ends the host part of the URL.
    if parts.fragment or "@" in parts.query or "@" in parts.path:
        raise _malformed_url()
    return parts


def _malformed_url() -> ValueError:
    return ValueError(
        "malformed URL; write the characters / ? # @ : of a user name or password as "
        "%2F %3F %23 %40 %3A"
    )
