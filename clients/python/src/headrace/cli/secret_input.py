"""Reads secrets from a prompt, from stdin or from a file, but never from an argument."""

from __future__ import annotations

import sys
from getpass import getpass
from pathlib import Path

from headrace.cli.arguments import STDIN
from headrace.cli.usage import UsageError


def read_secret(name: str) -> str:
    """Return a secret from a prompt without echo or, without a terminal, from the next line of
    stdin.

    Raises:
        UsageError: the secret is empty.
    """
    terminal = sys.stdin.isatty()
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
