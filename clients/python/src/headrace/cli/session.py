"""What the global options give to a command."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from cyclopts import Parameter

import headrace
from headrace.cli.output import Output

if TYPE_CHECKING:
    from headrace import Client

# A person waits in front of it, who can also call again: fewer retries than a program.
_RETRIES: Final = 2


class UsageError(Exception):
    """The command line makes no sense."""


@dataclass(frozen=True, slots=True)
class Session:
    """Where the gateway is, and how output is written."""

    target: str | None
    output: Output

    def client(self) -> Client:
        """A client, to be used with `async with`."""
        # What gRPC logs of connections that come and go is no news for a person at a terminal. It
        # reads this when it is imported, which is now.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        try:
            return headrace.Client(self.target, retries=_RETRIES)
        except ValueError as error:
            raise UsageError(str(error)) from error


# A command that has a parameter of this type gets the session.
Injected: TypeAlias = Annotated[Session, Parameter(parse=False)]
