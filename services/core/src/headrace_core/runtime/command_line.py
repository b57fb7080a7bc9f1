"""The command line of a service. It has no options; its help describes the settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from pydantic import SecretStr

from headrace_core.runtime.settings import Settings

_HINT = "Every setting is an environment variable; .env.example in the repository lists them all."

# Settings that every service reads, with their meanings.
SERVERS: Mapping[str, str] = {
    "database_url": "PostgreSQL 14 or newer",
    "redis_url": "Redis 7.0 or newer, or Valkey",
    "log_format": "json or console",
    "log_level": "debug, info, warning or error",
}


def service_parser(
    module: str, *, description: str, settings: Mapping[str, str], examples: Sequence[str]
) -> argparse.ArgumentParser:
    """Return the parser of `python -m MODULE`.

    Args:
        module: the name of the module.
        description: one or two sentences about the service.
        settings: the most important fields of `Settings`, with their meanings.
        examples: commands that can be copied and run unchanged.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=help_text(settings=settings, examples=examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def help_text(*, settings: Mapping[str, str], examples: Sequence[str]) -> str:
    """Return the end of a command's help: settings with their defaults, and examples."""
    lines = ["settings:"]
    for name, meaning in settings.items():
        lines += [f"  HEADRACE_{name.upper()}", f"      {meaning}; default: {_default(name)}"]
    return "\n".join((*lines, "", _HINT, "", "examples:", *(f"  {line}" for line in examples)))


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    value = field.default
    match value:
        case SecretStr():
            return value.get_secret_value()
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case () | "" | None:
            return "none"
        case _:
            return str(value)
