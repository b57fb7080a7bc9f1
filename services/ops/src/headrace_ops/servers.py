"""The servers to check, from the environment or from a running `headrace up`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import SecretStr, ValidationError

from headrace_core.runtime.settings import Settings, problems

# The default data folder of `headrace up`.
_DEFAULT_FOLDER = Path(".headrace")


class ServersNotFound(Exception):
    """The data folder has no running servers, or a setting is invalid; the message has details."""


def find_settings(data: Path | None) -> Settings:
    """Return settings with the URLs of the servers.

    Args:
        data: the data folder of a running `headrace up`. None for the folder .headrace if it exists
            and HEADRACE_DATABASE_URL is not set, otherwise for the servers in the environment.

    Raises:
        ServersNotFound: no server is running in the folder, or a setting is invalid.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise ServersNotFound("; ".join(problems(error))) from None
    named = bool(os.environ.get("HEADRACE_DATABASE_URL"))
    if data is None and (named or not _DEFAULT_FOLDER.is_dir()):
        return settings
    try:
        from headrace_standalone.embedded.running import (  # noqa: PLC0415 - it is an extra
            NoRunningServers,
            running_servers,
        )
    except ImportError:
        raise ServersNotFound(
            "--data needs the package headrace-standalone; in a checkout of Headrace, "
            "`make wheels` builds it and `pip install dist/*.whl` installs it"
        ) from None
    try:
        servers = running_servers(data or _DEFAULT_FOLDER)
    except NoRunningServers as error:
        raise ServersNotFound(str(error)) from None
    return settings.model_copy(
        update={
            name: SecretStr(url)
            for name, url in (
                ("database_url", servers.database_url),
                ("redis_url", servers.redis_url),
            )
            if url is not None
        }
    )


def unreachable_advice(data: Path | None) -> str:
    """Return advice for unreachable servers; empty if `data` is set."""
    if data is not None:
        return ""
    advice = "For the servers of a running `headrace up`, name its folder: --data FOLDER."
    if not os.environ.get("HEADRACE_DATABASE_URL"):
        return f"HEADRACE_DATABASE_URL is not set. {advice}"
    return f"HEADRACE_DATABASE_URL names it. {advice}"


def describe_database(settings: Settings) -> str:
    """Return the address of the database without secrets, such as `127.0.0.1:5432/headrace`."""
    url = urlsplit(settings.postgresql_url)
    return _hosts(url, default_port="5432") + url.path


def describe_redis(settings: Settings) -> str:
    """Return the address of Redis without secrets, such as `127.0.0.1:6379/0`, or its socket."""
    url = urlsplit(settings.redis_url.get_secret_value())
    return url.path if url.scheme == "unix" else _hosts(url, default_port="6379") + url.path


def _hosts(url: SplitResult, *, default_port: str) -> str:
    """Return the hosts of a URL with their ports, or the folder of a Unix socket."""
    query = parse_qs(url.query)
    # The user and the password are before the @ or in the query.
    hosts = url.netloc.rpartition("@")[2] or ",".join(query.get("host", ["localhost"]))
    port = ",".join(query.get("port", [default_port]))
    return ",".join(
        host if _PORT.search(host) or "," in port else f"{host}:{port}" for host in hosts.split(",")
    )


_PORT = re.compile(r"(?:^[^:]*|\]):[0-9]+\Z")
