"""Which servers are meant: those of the environment, or those of a running `headrace up`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import SecretStr, ValidationError

from headrace_core.runtime.settings import Settings, problems

# Where `headrace up` keeps its data unless it is told otherwise.
_DEFAULT = Path(".headrace")


class UnknownPlace(Exception):
    """Nothing says where the servers are, or what says so is not right."""


def find_settings(data: Path | None) -> Settings:
    """The settings with which to reach the servers.

    Args:
        data: the folder of a running `headrace up`. None: what the environment says, or else the
            folder in which `headrace up` runs here.

    Raises:
        UnknownPlace: there is no such folder, nothing runs in it, or a setting is wrong.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise UnknownPlace("; ".join(problems(error))) from None
    named = bool(os.environ.get("HEADRACE_DATABASE_URL"))
    if data is None and (named or not _DEFAULT.is_dir()):
        return settings
    try:
        from headrace_standalone.embedded.running import (  # noqa: PLC0415 - it is an extra
            NothingRuns,
            running_servers,
        )
    except ImportError:
        raise UnknownPlace(
            "--data needs the package headrace-standalone; in a checkout of Headrace, "
            "`make wheels` builds it and `pip install dist/*.whl` installs it"
        ) from None
    try:
        servers = running_servers(data or _DEFAULT)
    except NothingRuns as error:
        raise UnknownPlace(str(error)) from None
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


def hint(data: Path | None) -> str:
    """What to try when the servers cannot be reached; empty when a folder was given."""
    if data is not None:
        return ""
    told = "For the servers of a running `headrace up`, name its folder: --data FOLDER."
    if not os.environ.get("HEADRACE_DATABASE_URL"):
        return f"HEADRACE_DATABASE_URL is not set. {told}"
    return f"HEADRACE_DATABASE_URL names it. {told}"


def describe(settings: Settings) -> str:
    """Where the database is, without what is secret: `127.0.0.1:5432/headrace`."""
    url = urlsplit(settings.postgresql_url)
    return _hosts(url, default_port="5432") + url.path


def describe_redis(settings: Settings) -> str:
    """Where Redis is, without what is secret: `127.0.0.1:6379/0`, or the path of its socket."""
    url = urlsplit(settings.redis_url.get_secret_value())
    return url.path if url.scheme == "unix" else _hosts(url, default_port="6379") + url.path


def _hosts(url: SplitResult, *, default_port: str) -> str:
    """The hosts of a URL, each with its port; a socket is named by its folder."""
    query = parse_qs(url.query)
    # What stands before the host is the user and the password, and a query may have them as well.
    hosts = url.netloc.rpartition("@")[2] or ",".join(query.get("host", ["localhost"]))
    port = ",".join(query.get("port", [default_port]))
    return ",".join(
        host if _PORT.search(host) or "," in port else f"{host}:{port}" for host in hosts.split(",")
    )


_PORT = re.compile(r"(?:^[^:]*|\]):[0-9]+\Z")
