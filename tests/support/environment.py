"""Settings as a child process reads them."""

from __future__ import annotations

import os

from pydantic import SecretStr

from headrace_core.runtime.settings import Settings


def environment_of(settings: Settings, **changes: str) -> dict[str, str]:
    """The environment for a service with these settings.

    Args:
        settings: all of them are passed.
        changes: further variables, by their full names.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    for name in type(settings).model_fields:
        environment[f"HEADRACE_{name.upper()}"] = _text(getattr(settings, name))
    return environment | changes


def _text(value: object) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(str(part) for part in value)
        case bool():
            return str(value).lower()
        case _:
            return str(value)
