"""The command line: global options, Ctrl-C, errors and exit codes."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated, Any, Final

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console
from rich.text import Text

import headrace
from headrace.cli.arguments import STDIN
from headrace.cli.commands import add_commands
from headrace.cli.output import Format, Output
from headrace.cli.session import Exit, Session, UsageError, exit_code_for

_OPTIONS: Final = Group("Options", sort_key=1)
_GLOBAL: Final = Group("Global options", sort_key=2)

_HELP: Final = "Submit jobs to Headrace and follow each of their transitions live."
_EPILOGUE: Final = """\
Exit codes: 0 ok, 1 a job failed, 2 usage, 3 not found, 5 unavailable, 124 timed out, \
130 interrupted.

Examples:
  headrace up
  headrace submit square_sum '{"data": [1, 2, 3]}' --watch
  headrace list --state failed"""


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8")
    errors = Output(format="text").errors
    arguments = [STDIN if argument == "-" else argument for argument in arguments]
    try:
        code = _build_app(arguments, errors=errors).meta(arguments, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe has exited. Discard the output that Python has buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except UsageError as error:
        errors.print(_error_text(str(error)))
        return Exit.USAGE
    except (headrace.HeadraceError, TimeoutError) as error:
        _print_error(error, errors)
        return exit_code_for(error)
    return code if isinstance(code, int) else Exit.OK


def _build_app(arguments: Sequence[str], *, errors: Console) -> App:
    app = App(
        name="headrace",
        help=_HELP,
        help_format="plaintext",
        group_parameters=_OPTIONS,
        # Without this, flags and lists would get options such as --no-watch and --empty-label.
        default_parameter=Parameter(negative=()),
        help_epilogue=_EPILOGUE,
        version=lambda: version("headrace"),
        error_console=errors,
        error_formatter=_usage_text,
    )
    add_commands(app, arguments)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        target: Annotated[
            str | None,
            Parameter(
                group=_GLOBAL,
                env_var="HEADRACE_TARGET",
                help="The gateway as host:port, or several separated by commas; "
                "default 127.0.0.1:50051.",
            ),
        ] = None,
        output: Annotated[
            Format,
            Parameter(
                name=["--output", "-o"],
                group=_GLOBAL,
                help="Output format: text, one JSON document, or one JSON document per line.",
            ),
        ] = "text",
    ) -> object:
        command, bound, injected = app.parse_args(tokens)
        session = Session(target=target, output=Output(format=output))
        result = command(*bound.args, **bound.kwargs, **dict.fromkeys(injected, session))
        return asyncio.run(_run_interruptible(result)) if inspect.iscoroutine(result) else result

    return app


async def _run_interruptible(command: Coroutine[Any, Any, object]) -> object:
    """Run a command; on Ctrl-C cancel it, so that it can clean up and print its position.

    A signal always wakes the event loop's own signal handler. The handler of `asyncio.run` can miss
    a signal that arrives just before the loop waits.
    """
    task = asyncio.ensure_future(command)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        task.cancel()

    # Windows does not implement this method; on Windows, a signal always wakes the loop.
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if interrupted:
            return Exit.INTERRUPTED
        raise


def _print_error(error: headrace.HeadraceError | TimeoutError, errors: Console) -> None:
    violations = error.violations if isinstance(error, headrace.InvalidRequest) else ()
    if len(violations) < 2:
        errors.print(_error_text(str(error) or "timed out"))
    else:
        errors.print(_error_text(f"the request has {len(violations)} errors"))
        for violation in violations:
            errors.print(Text(f"  {violation.field}: {violation.description}"))
    if isinstance(error, headrace.Unavailable) and not error.refusal.reason:
        errors.print("try: headrace up, or --target with the address of a gateway")


def _usage_text(error: CycloptsError) -> Text:
    command = " ".join(("headrace", *(error.command_chain or ())))
    return _error_text(f"{error}\n").append(f"try: {command} --help")


def _error_text(message: str) -> Text:
    return Text.assemble(("error: ", "bold red"), message)
