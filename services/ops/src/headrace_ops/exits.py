"""Exit codes and error messages of the operator commands."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from rich.text import Text

from headrace.cli.output import Output, json_text
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.settings import Settings, StartRefused
from headrace_ops.audit import SchemaMismatch
from headrace_ops.servers import (
    ServersNotFound,
    describe_database,
    find_settings,
    unreachable_advice,
)

_T = TypeVar("_T")


class Exit(IntEnum):
    """The exit codes."""

    CLEAN = 0
    BROKEN = 1
    # The servers cannot be checked.
    UNKNOWN = 2


def check_servers(
    check: Callable[[Settings], _T], *, data: Path | None, output: Output, json: bool
) -> _T | None:
    """Find the servers and return the result of `check`.

    Args:
        check: called with the settings of the servers.
        data: see `find_settings`.
        output: prints an error.
        json: whether to print an error as JSON too.

    Returns:
        The result of `check`; None after an error, which is printed.
    """
    try:
        settings = find_settings(data)
    except ServersNotFound as error:
        reason = str(error)
    else:
        try:
            return check(settings)
        except SchemaMismatch as error:
            reason = f"{describe_database(settings)}: {error}"
        except StartRefused as error:
            reason = str(error)
        except Unavailable as error:
            fault = type(error.__cause__ or error).__name__
            reason = (
                f"the database at {describe_database(settings)} cannot be reached, or is too slow "
            )
            reason += f"({fault}). {unreachable_advice(data)}".rstrip()
        except Exception as error:  # noqa: BLE001 - any error means an unknown result
            # A driver's message can contain the URL and its password.
            fault = type(error).__name__
            reason = f"the database at {describe_database(settings)} cannot be used ({fault}). "
            reason = f"{reason}{unreachable_advice(data)}".rstrip()
    if json:
        output.line(json_text({"verdict": "unknown", "reason": reason}))
    output.errors.print(Text.assemble(("check failed: ", "bold red"), reason))
    return None
