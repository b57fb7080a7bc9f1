"""Commands that other packages bring, by the entry-point group `headrace.commands`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Final

from cyclopts import App, Parameter

from headrace.cli.session import UsageError

_GROUP: Final = "headrace.commands"
# Commands that are worth telling of when nobody brings them: the package, and what they do.
_KNOWN: Final = {
    "up": ("headrace-standalone", "Start the whole platform on this machine."),
    "doctor": ("headrace-ops", "Look at the servers and what runs on them, and say what to do."),
    "verify": ("headrace-ops", "Audit a database against what must always hold."),
}


def add_plugins(app: App, arguments: Sequence[str]) -> None:
    """Adds what is installed; one that cannot be imported spoils no other command."""
    found = {point.name: point for point in entry_points(group=_GROUP)}
    for name, point in sorted(found.items()):
        _add(app, point, used=name in arguments)
    for name, (package, summary) in _KNOWN.items():
        if name not in found:
            _add_missing(app, name, package, summary)


def _add(app: App, point: EntryPoint, *, used: bool) -> None:
    try:
        # The examples below the help are those of our own commands.
        app.command(point.load(), name=point.name, help_epilogue="")
    except Exception as error:
        if used:
            raise UsageError(
                f"the command {point.name} of {point.value} cannot be used: {error}"
            ) from error


def _add_missing(app: App, name: str, package: str, summary: str) -> None:
    def missing(*_: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]) -> None:
        raise UsageError(
            f"the command {name} comes with the package {package}; in a checkout of Headrace, "
            "`make wheels` builds it and `pip install dist/*.whl` installs it"
        )

    app.command(missing, name=name, help=f"{summary} Needs {package}.")
