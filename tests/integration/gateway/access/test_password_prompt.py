"""Password prompts of the command line on a real terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import Client
from headrace_core.runtime.settings import Settings
from support.gateway import TIMEOUT
from support.terminal import StartTerminal, Terminal, headrace_terminals

NEW_PASSWORD = "a long and quiet river"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
def start(target: str, tmp_path: Path) -> Iterator[StartTerminal]:
    """Return a function that starts the command line on a terminal."""
    with headrace_terminals(target, tmp_path) as start:
        yield start


async def test_login_reads_the_password_without_echo(admin: Client, start: StartTerminal) -> None:
    password = (await admin.create_user("ada")).password

    def log_in() -> str:
        terminal = start("login", "ada")
        terminal.until("Password: ")
        assert not terminal.echoes
        terminal.type(password)
        assert terminal.end() == 0, terminal.output
        assert terminal.echoes
        return terminal.output

    async with asyncio.timeout(TIMEOUT):
        assert password not in await asyncio.to_thread(log_in)

    def whoami() -> str:
        terminal = start("whoami")
        assert terminal.end() == 0, terminal.output
        return terminal.output

    assert "ada" in await asyncio.to_thread(whoami)


async def test_password_change_prompts_for_both_passwords(
    admin: Client, target: str, start: StartTerminal
) -> None:
    password = (await admin.create_user("ada")).password

    def change() -> str:
        terminal = start("login", "ada")
        terminal.until("Password: ")
        terminal.type(password)
        assert terminal.end() == 0, terminal.output
        terminal = start("password")
        terminal.until("assword: ")
        terminal.type(password)
        terminal.until("New password: ")
        assert not terminal.echoes
        terminal.type(NEW_PASSWORD)
        terminal.until("New password again: ")
        terminal.type(NEW_PASSWORD)
        assert terminal.end() == 0, terminal.output
        return terminal.output

    async with asyncio.timeout(TIMEOUT):
        output = await asyncio.to_thread(change)
    assert NEW_PASSWORD not in output
    assert password not in output
    async with Client(target) as client:
        await client.login("ada", NEW_PASSWORD)


async def test_ctrl_c_at_the_prompt_restores_the_terminal(
    admin: Client, start: StartTerminal
) -> None:
    await admin.create_user("ada")

    def interrupt() -> Terminal:
        terminal = start("login", "ada")
        terminal.until("Password: ")
        terminal.interrupt()
        assert terminal.end() == 130, terminal.output
        return terminal

    terminal = await asyncio.to_thread(interrupt)
    assert terminal.echoes
    assert "Traceback" not in terminal.output
