"""`headrace completion`, and the values that shells complete.

The script of a shell calls the hidden command `__complete` for values that only the gateway knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from cyclopts import App, Parameter

from headrace import JobState
from headrace.cli.config import load_config
from headrace.cli.connection import Options, connection

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

    from headrace import Client

# The time limit of a completion, in seconds.
_TIMEOUT_S: Final = 3.0
# The number of the newest jobs that are offered.
_NEWEST: Final = 50

# Values with their descriptions.
_Values: TypeAlias = Mapping[str, str]
Completer: TypeAlias = "Callable[[CompletionContext], _Values]"


def _from_gateway(read: Callable[[Client], Awaitable[_Values]]) -> Completer:
    """Return a completer that reads values from the gateway; after an error it offers none."""

    async def read_in_time() -> _Values:
        async with asyncio.timeout(_TIMEOUT_S), connection(Options()).client() as client:
            return await read(client)

    def complete(_: CompletionContext) -> _Values:
        return asyncio.run(read_in_time())

    return complete


async def _read_types(client: Client) -> _Values:
    return {handler.type: handler.description for handler in await client.handlers()}


async def _read_queues(client: Client) -> _Values:
    queues = {handler.queue for handler in await client.handlers()}
    async with aclosing(client.workers()) as workers:
        async for worker in workers:
            queues.update(worker.queues)
    return dict.fromkeys(sorted(queues), "")


async def _read_jobs(client: Client) -> _Values:
    found = {}
    async with aclosing(client.list(page_size=_NEWEST)) as jobs:
        async for job in jobs:
            found[job.id] = f"{job.type} {job.state}"
            if len(found) == _NEWEST:
                break
    return found


def complete_contexts(_: CompletionContext) -> _Values:
    """Return the contexts of the configuration file."""
    return {name: context.target for name, context in load_config().contexts.items()}


def complete_states(_: CompletionContext) -> _Values:
    """Return the states of jobs."""
    return {state.lower(): "" for state in JobState if state is not JobState.UNKNOWN}


complete_types: Final = _from_gateway(_read_types)
complete_queues: Final = _from_gateway(_read_queues)
complete_jobs: Final = _from_gateway(_read_jobs)


def add_completion_command(app: App) -> None:
    """Add the command that prints the completion script of a shell."""

    def completion(
        shell: Annotated[
            Literal["bash", "zsh", "fish"], Parameter(name="SHELL", help="The shell.")
        ],
        /,
    ) -> None:
        print(app.generate_completion(prog_name="headrace", shell=shell))  # noqa: T201

    app.command(
        completion,
        name="completion",
        help="Print the script that completes commands, types, queues and job ids in a shell.",
        help_epilogue="""Examples:
  source <(headrace completion bash)
  headrace completion zsh > ~/.zfunc/_headrace
  headrace completion fish > ~/.config/fish/completions/headrace.fish""",
    )
