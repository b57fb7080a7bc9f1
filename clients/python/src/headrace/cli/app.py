"""The command line: its commands, its global options, and how it ends."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Final

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console
from rich.text import Text

import headrace
from headrace.cli.arguments import STDIN
from headrace.cli.exits import Exit, exit_for
from headrace.cli.interrupt import interruptible
from headrace.cli.output import Format, Output
from headrace.cli.plugins import add_plugins
from headrace.cli.session import Session, UsageError

# name: (what it does, examples). A command is imported when it is used.
_COMMANDS: Final = {
    "submit": (
        "Submit a job, and print its id.",
        """
  headrace submit square_sum '{"data": [1, 2, 3]}' --watch
  headrace submit email @mail.json --queue mail --label team=ops --delay 10m
  echo '{"data": [4]}' | headrace submit square_sum - --wait""",
    ),
    "watch": (
        "Follow jobs live: the ones named, or all that match.",
        """
  headrace watch 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace watch --queue mail --label team=ops
  headrace watch --state failed -o jsonl
  headrace watch --queue mail --since AQAAAAAAAAMh… -o jsonl""",
    ),
    "get": (
        "Show a job with its payload, result and output.",
        """
  headrace get 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace get 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b -o json | jq .result""",
    ),
    "output": (
        "Print what a job's handler has emitted.",
        """
  headrace output 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace output 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b -o jsonl | jq .output""",
    ),
    "list": (
        "List jobs, the newest first.",
        """
  headrace list --state failed --queue mail
  headrace list --filter 'labels.team = "ml" AND priority > 10' -o jsonl""",
    ),
    "cancel": (
        "Cancel jobs.",
        """
  headrace cancel 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b""",
    ),
    "retry": (
        "Requeue jobs that failed or were cancelled.",
        """
  headrace retry 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace list --state failed -o jsonl | jq -r .id | xargs headrace retry""",
    ),
    "events": (
        "List what has happened to a job.",
        """
  headrace events 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b""",
    ),
    "stats": (
        "Count jobs by state, queue and type.",
        """
  headrace stats
  headrace stats -o json | jq .states""",
    ),
    "handlers": (
        "List the types of jobs that live workers can run.",
        """
  headrace handlers
  headrace handlers -o json | jq '.[0].payload_schema'""",
    ),
}

# Commands whose module has another name.
_MODULES: Final = {"output": "job_output"}

_SUBSCRIPTION: Final = (
    "Watches whose place the server keeps: each event comes until it is acknowledged.",
    """
  headrace subscription create billing --queue invoices --state succeeded
  headrace subscription watch billing
  headrace subscription watch billing -o jsonl | ./handler
  headrace subscription list""",
)
_SUBSCRIPTION_COMMANDS: Final = {
    "create": (
        "subscriptions:create",
        "Create a subscription; the same one again changes nothing.",
        """
  headrace subscription create billing --queue invoices --state succeeded
  headrace subscription create audit
  headrace subscription create late --label team=ml --since AQAAAAAAAAMh…""",
    ),
    "list": (
        "subscriptions:list_all",
        "List subscriptions: who receives them, and how far behind they are.",
        """
  headrace subscription list
  headrace subscription list -o jsonl | jq 'select(.lag > 60)'""",
    ),
    "get": (
        "subscriptions:get",
        "Show a subscription.",
        """
  headrace subscription get billing""",
    ),
    "delete": (
        "subscriptions:delete",
        "Delete a subscription; whoever receives it is told.",
        """
  headrace subscription delete billing""",
    ),
    "watch": (
        "subscription_watch:command",
        "Receive a subscription, and acknowledge each event once its line is written.",
        """
  headrace subscription watch billing
  headrace subscription watch billing -o jsonl | ./handler
  headrace subscription watch billing --consumer "$HOSTNAME" -o jsonl >> log
  headrace subscription watch billing --no-ack""",
    ),
    "ack": (
        "subscriptions:ack",
        "Acknowledge everything up to a cursor, such as that of a line of watch --no-ack.",
        """
  headrace subscription ack billing AQEAAAAAAAMh…""",
    ),
}

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
    """Runs a command line and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8")
    errors = Output(format="text").errors
    arguments = [STDIN if argument == "-" else argument for argument in arguments]
    try:
        code = _app(arguments, errors=errors).meta(arguments, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough. What Python still holds goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except UsageError as error:
        errors.print(_error_text(str(error)))
        return Exit.USAGE
    except (headrace.HeadraceError, TimeoutError) as error:
        many = error.violations if isinstance(error, headrace.InvalidRequest) else ()
        if len(many) < 2:
            errors.print(_error_text(str(error) or "timed out"))
        else:
            errors.print(_error_text(f"{len(many)} things are wrong with the request"))
            for violation in many:
                errors.print(Text(f"  {violation.field}: {violation.description}"))
        if isinstance(error, headrace.Unavailable) and not error.refusal.reason:
            errors.print("try: headrace up, or --target with the address of a gateway")
        return exit_for(error)
    return code if isinstance(code, int) else Exit.OK


def _app(arguments: Sequence[str], *, errors: Console) -> App:
    app = App(
        name="headrace",
        help=_HELP,
        help_format="plaintext",
        group_parameters=_OPTIONS,
        # No --no-watch, and no --empty-label.
        default_parameter=Parameter(negative=()),
        help_epilogue=_EPILOGUE,
        version=lambda: version("headrace"),
        error_console=errors,
        error_formatter=_usage_text,
    )
    for name, (summary, examples) in _COMMANDS.items():
        app.command(
            f"headrace.cli.{_MODULES.get(name, name)}:command",
            name=name,
            help=summary,
            help_epilogue=f"Examples:{examples}",
        )
    app.command(_subscription())
    add_plugins(app, arguments)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        target: Annotated[
            str | None,
            Parameter(
                group=_GLOBAL,
                env_var="HEADRACE_TARGET",
                help="The gateway as host:port, or several of them separated by commas; "
                "127.0.0.1:50051 unless given.",
            ),
        ] = None,
        output: Annotated[
            Format,
            Parameter(
                name=["--output", "-o"],
                group=_GLOBAL,
                help="How data is written: for people, as one JSON document, or as one JSON "
                "document per line.",
            ),
        ] = "text",
    ) -> object:
        command, bound, injected = app.parse_args(tokens)
        session = Session(target=target, output=Output(format=output))
        result = command(*bound.args, **bound.kwargs, **dict.fromkeys(injected, session))
        return asyncio.run(interruptible(result)) if inspect.iscoroutine(result) else result

    return app


def _subscription() -> App:
    summary, examples = _SUBSCRIPTION
    group = App(name="subscription", help=summary, help_epilogue=f"Examples:{examples}")
    for name, (place, what, how) in _SUBSCRIPTION_COMMANDS.items():
        group.command(
            f"headrace.cli.{place}", name=name, help=what, help_epilogue=f"Examples:{how}"
        )
    return group


def _usage_text(error: CycloptsError) -> Text:
    command = " ".join(("headrace", *(error.command_chain or ())))
    return _error_text(f"{error}\n").append(f"try: {command} --help")


def _error_text(message: str) -> Text:
    return Text.assemble(("error: ", "bold red"), message)
