"""A database that a test may damage, and the command `headrace`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from headrace_core.runtime.settings import Settings
from support.commands import Headrace
from support.settings import environment_of
from support.warm_cli import warm_cli


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """A database for a test that changes its schema or settings."""
    return own_database_url


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The command `headrace`, forked from a process that has imported its modules."""
    modules = ("headrace_ops.admin", "headrace_ops.doctor", "headrace_ops.verify")
    with warm_cli(tmp_path_factory.mktemp("cli"), *modules) as command:
        yield command


@pytest.fixture
def headrace(command: tuple[str, ...]) -> Headrace:
    """Return a function that runs `headrace` with settings and arguments."""

    def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            env=environment_of(settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run
