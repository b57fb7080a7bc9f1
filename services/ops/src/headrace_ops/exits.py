"""How the operator's commands end."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

from rich.text import Text

from headrace.cli.documents import json_text
from headrace.cli.output import Output
from headrace_core.domain.errors import Unavailable
from headrace_ops.audit import OtherSchema
from headrace_ops.place import UnknownPlace

_T = TypeVar("_T")


class Exit(IntEnum):
    """The exit codes."""

    CLEAN = 0
    BROKEN = 1
    # The servers cannot be asked, so there is no verdict.
    UNKNOWN = 2


def ask(look: Callable[[], _T], *, output: Output, json: bool) -> _T | None:
    """Looks; None when nothing can be told, and then says why."""
    try:
        return look()
    except (UnknownPlace, OtherSchema) as error:
        why = str(error)
    except Unavailable as error:
        fault = type(error.__cause__ or error).__name__
        why = f"the database cannot be reached, or takes too long ({fault})"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no verdict
        # The text of a driver may quote the URL, and the password with it.
        why = f"the database cannot be used ({type(error).__name__})"
    if json:
        output.line(json_text({"verdict": "unknown", "reason": why}))
    output.errors.print(Text.assemble(("cannot tell: ", "bold red"), why))
    return None
