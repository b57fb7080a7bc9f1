"""How the operator's commands end."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from rich.text import Text

from headrace.cli.output import Output, json_text
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.settings import Settings
from headrace_ops.audit import OtherSchema
from headrace_ops.place import UnknownPlace, describe, find_settings, hint

_T = TypeVar("_T")


class Exit(IntEnum):
    """The exit codes."""

    CLEAN = 0
    BROKEN = 1
    # The servers cannot be asked, so there is no verdict.
    UNKNOWN = 2


def ask(
    look: Callable[[Settings], _T], *, data: Path | None, output: Output, json: bool
) -> _T | None:
    """Find the servers and look at them; print the reason and return None when that fails.

    Args:
        look: is called with the settings of the servers.
        data: as for `find_settings`.
        output, json: where and how the reason is printed.
    """
    try:
        settings = find_settings(data)
    except UnknownPlace as error:
        why = str(error)
    else:
        try:
            return look(settings)
        except OtherSchema as error:
            why = f"{describe(settings)}: {error}"
        except Unavailable as error:
            fault = type(error.__cause__ or error).__name__
            why = f"the database at {describe(settings)} cannot be reached, or takes too long "
            why += f"({fault}). {hint(data)}".rstrip()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no verdict
            # The text of a driver may quote the URL, and the password with it.
            why = f"the database at {describe(settings)} cannot be used ({type(error).__name__}). "
            why = f"{why}{hint(data)}".rstrip()
    if json:
        output.line(json_text({"verdict": "unknown", "reason": why}))
    output.errors.print(Text.assemble(("cannot tell: ", "bold red"), why))
    return None
