"""Prompts, and secrets from a prompt, from stdin or from a file, but never from an argument."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getpass
from pathlib import Path

from headrace.cli.arguments import STDIN
from headrace.cli.usage import UsageError


class Interrupted(Exception):
    """The user pressed Ctrl-C at a prompt."""


@contextmanager
def interruptible_prompt() -> Iterator[None]:
    """Let Ctrl-C end a prompt, although the prompt blocks the event loop that handles signals.

    Raises:
        Interrupted: the user pressed Ctrl-C.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        raise Interrupted from None
    finally:
        signal.signal(signal.SIGINT, previous)


def read_secret(name: str) -> str:
    """Return a secret from a prompt without echo or, without a terminal, from the next line of
    stdin.

    Raises:
        UsageError: the secret is empty.
        Interrupted: the user pressed Ctrl-C.
    """
    terminal = sys.stdin.isatty()
    with interruptible_prompt():
        secret = (getpass(f"{name}: ") if terminal else sys.stdin.readline()).strip("\r\n")
    if not secret:
        advice = "is empty" if terminal else "is missing; write it to stdin"
        raise UsageError(f"the {name.lower()} {advice}")
    return secret


def read_secret_file(name: str, file: str) -> str:
    """Return the secret in a file; `-` calls `read_secret`.

    Raises:
        UsageError: the file cannot be read or is empty.
    """
    if file == STDIN:
        return read_secret(name)
    try:
        secret = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot read {file}: {problem}") from None
    if not secret:
        raise UsageError(f"{file} is empty; it must contain the {name.lower()}")
    return secret
