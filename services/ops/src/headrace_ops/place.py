"""Which servers are meant: those of the environment, or those of a running `headrace up`."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from headrace_core.settings import Settings, problems

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


def describe(settings: Settings) -> str:
    """Where the database is, without what is secret: `127.0.0.1:5432/headrace`."""
    url = urlsplit(settings.postgresql_url)
    # What stands before the host is the user and the password, and a query may have them as well.
    return url.netloc.rpartition("@")[2] + url.path
