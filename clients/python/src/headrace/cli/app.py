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
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console
from rich.text import Text

import headrace
from headrace.cli.arguments import STDIN, Flag
from headrace.cli.commands import add_commands
from headrace.cli.completion import add_completion_command, complete_contexts
from headrace.cli.connection import Options
from headrace.cli.job_ids import NoSuchJob
from headrace.cli.output import Format, Output
from headrace.cli.secret_input import Interrupted
from headrace.cli.session import Exit, Session, exit_code_for
from headrace.cli.usage import UsageError

_OPTIONS: Final = Group("Options", sort_key=1)
_GLOBAL: Final = Group("Global options", sort_key=2)

_HELP: Final = "Submit jobs to Headrace and follow each of their transitions live."
_EPILOGUE: Final = """\
Exit codes: 0 ok, 1 a job failed, 2 usage, 3 not found, 4 denied, 5 unavailable, \
124 timed out, 130 interrupted.

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
        return Exit.NOT_FOUND if isinstance(error, NoSuchJob) else Exit.USAGE
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
        # Without this setting, flags and lists would get options such as --no-watch and
        # --empty-label.
        default_parameter=Parameter(negative=()),
        help_epilogue=_EPILOGUE,
        version=lambda: version("headrace"),
        error_console=errors,
        error_formatter=_usage_text,
    )
    add_commands(app, arguments)
    add_completion_command(app)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        target: Annotated[
            str | None,
            Parameter(
                group=_GLOBAL,
                help="The gateway as host:port, or several separated by commas; "
                "default HEADRACE_TARGET or 127.0.0.1:50051.",
            ),
        ] = None,
        context: Annotated[
            str | None,
            Parameter(
                group=_GLOBAL,
                completer=complete_contexts,
                help="The context with the gateway and the credential; default HEADRACE_CONTEXT, "
                "or the current context unless another target is set.",
            ),
        ] = None,
        tls: Annotated[
            Flag,
            Parameter(group=_GLOBAL, help="Use TLS with the public CAs, or with --tls-ca."),
        ] = False,
        tls_ca: Annotated[
            Path | None,
            Parameter(
                group=_GLOBAL,
                metavar="FILE",
                help="CA certificates that verify the gateway; default HEADRACE_TLS_CA.",
            ),
        ] = None,
        tls_cert: Annotated[
            Path | None,
            Parameter(
                group=_GLOBAL,
                metavar="FILE",
                help="Certificate of the client; default HEADRACE_TLS_CERT.",
            ),
        ] = None,
        tls_key: Annotated[
            Path | None,
            Parameter(
                group=_GLOBAL,
                metavar="FILE",
                help="Private key of --tls-cert; default HEADRACE_TLS_KEY.",
            ),
        ] = None,
        insecure: Annotated[
            Flag,
            Parameter(
                group=_GLOBAL,
                help="Send the credential to another machine without TLS; others can read it.",
            ),
        ] = False,
        tenant: Annotated[
            str | None,
            Parameter(group=_GLOBAL, help="Act in this tenant; requires the role platform."),
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
        options = Options(
            target=target,
            context=context,
            tls=tls,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
            insecure=insecure,
            tenant=tenant,
        )
        session = Session(options=options, output=Output(format=output))
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
    except Interrupted:
        return Exit.INTERRUPTED
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
    if isinstance(error, headrace.Unauthenticated):
        errors.print("try: headrace login, --context, or set HEADRACE_API_KEY or HEADRACE_TOKEN")


def _usage_text(error: CycloptsError) -> Text:
    command = " ".join(("headrace", *(error.command_chain or ())))
    return _error_text(f"{error}\n").append(f"try: {command} --help")


def _error_text(message: str) -> Text:
    return Text.assemble(("error: ", "bold red"), message)
