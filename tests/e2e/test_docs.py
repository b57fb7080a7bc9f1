"""Every code block of the README and the docs runs unchanged on one live platform.

A new block is tested automatically. A block that cannot run needs a reason in SKIP_REASONS.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace import Client, SubscriptionNotFound, SyncClient
from headrace_standalone.embedded.running import running_servers
from support.warm_cli import warm_cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent
DEADLINE_S = 90

# A block without a language contains commands if it starts with one of these words.
COMMANDS = {"curl", "docker", "export", "grep", "grpcurl", "headrace", "make", "pip", "python"}

# Parts of commands and blocks that cannot run in this test, with the reasons.
SKIP_REASONS = {
    "make ": "CI runs demo, test and faults-quick; other targets take up to half an hour",
    "pip install": "changes the environment; tests/unit/test_packages.py builds a wheel",
    "-format-error": "returns an error on purpose; test_grpcurl.py runs it",
    "AckSubscription": "needs a cursor of a running watch",
    "-cacert": "needs a gateway with TLS; test_grpcurl_secured.py runs such commands",
    "--secure": "tests/integration/standalone/test_up.py runs it",
    "--tls-ca": "needs a service with TLS; tests/integration/gateway/test_tls.py runs it",
    "docker": "needs a container engine",
    "async def run(trial": "an excerpt of a scenario in faults/scenarios",
    "require_packages(": "tests/unit/worker/test_loading.py installs such a package",
    "UPDATE accounts SET": "an excerpt of examples/payments.py, which has its own test",
}
# SQL blocks use tables of the reader.
LANGUAGES_NOT_RUN = {
    "sql",
    "proto",
    "yaml",
    "toml",
    "text",
    "go",
    "java",
    "ts",
    "typescript",
    "ini",
}

# Commands and Python code that run until they are interrupted.
ENDLESS_PATTERN = re.compile(
    r"curl -sSN|WatchJobs|WatchOverview|WatchSubscription|Health/Watch|headrace watch(?!-)"
    r"|subscription watch|stats --watch|(client|browser)\.(watch|watch_overview|subscribe)\("
)

# The names that a Python excerpt may use without defining them.
PRELUDE = """
import asyncio
from headrace import *
from headrace import Client
async def main():
    saved, handle, pod_name = None, print, "billing-0"
    async with Client() as client:
{body}
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `place` is `PAGE:LINE`."""

    place: str
    language: str
    text: str

    @property
    def reason(self) -> str | None:
        """The reason why the block does not run, or None if it runs."""
        if self.language in LANGUAGES_NOT_RUN:
            return f"{self.language} does not run here"
        return None if self.is_shell else reason_of(self.text)

    @property
    def is_shell(self) -> bool:
        return self.language in {"bash", "sh", "shell", "console"} or (
            not self.language and self.text.lstrip("$ ").split(maxsplit=1)[0] in COMMANDS
        )

    def commands(self) -> list[str]:
        """Return the commands of a shell block, each on one line."""
        lines = self.text.replace("\\\n", " ").splitlines()
        stripped = [line.removeprefix("$ ") for line in lines]
        return [line for line in stripped if line.strip() and not line.startswith("#")]


def reason_of(text: str) -> str | None:
    return next((reason for part, reason in SKIP_REASONS.items() if part in text), None)


def blocks(pages: list[Path]) -> list[Block]:
    result = []
    for page in pages:
        text = page.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            result.append(Block(f"{page.name}:{line}", match[1], match[2]))
    return result


BLOCKS = blocks(PAGES)
HANDLER_BLOCKS = [one for one in BLOCKS if one.language == "python" and "@handler(" in one.text]


@dataclass(frozen=True, slots=True)
class LivePlatform:
    """A running platform with a failed job.

    Attributes:
        folder: the working directory, with `.headrace` in it.
        environment: the environment variables of the commands.
        replacements: the placeholders in the docs, and their values here.
    """

    folder: Path
    environment: dict[str, str]
    replacements: dict[str, str]

    def run(self, command: list[str], *, endless: bool) -> None:
        """Run a command to its end, or to its first line of output."""
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
        ) as process:
            timer = threading.Timer(DEADLINE_S, os.killpg, (process.pid, signal.SIGKILL))
            timer.start()
            try:
                output = process.stdout.readline() if endless else ""
                if endless and process.poll() is None:
                    os.killpg(process.pid, signal.SIGINT)
                output += process.stdout.read()
                process.wait()
            finally:
                timer.cancel()
        if endless:
            # An interrupted command may exit with any code, but must print no error.
            assert not re.search(r"^(error|ERROR|Failed)|Error:", output, re.MULTILINE), output
            assert output
        else:
            assert process.returncode == 0, f"{command[-1]}\n{output}"

    def fill(self, text: str) -> str:
        """Return `text` with the placeholders replaced."""
        for placeholder, value in self.replacements.items():
            text = text.replace(placeholder, value)
        return text


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a `headrace` command that starts fast."""
    folder = tmp_path_factory.mktemp("bin")
    modules = ("headrace_ops.doctor", "headrace_ops.verify")
    with warm_cli(tmp_path_factory.mktemp("cli"), *modules) as command:
        script = folder / "headrace"
        script.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
        script.chmod(0o755)
        yield folder


@pytest.fixture(scope="module")
def live_platform(
    commands: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LivePlatform]:
    """`headrace up` with the handlers of the docs, started as a reader would start it."""
    folder = tmp_path_factory.mktemp("docs")
    modules = []
    for number, block in enumerate(one for one in HANDLER_BLOCKS if one.reason is None):
        module = f"docs_handlers_{number}"
        (folder / f"{module}.py").write_text(block.text)
        modules.append(module)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")} | {
        "PATH": os.pathsep.join((str(commands), str(BIN), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT / "examples"))),
        "HEADRACE_HANDLERS": ",".join(("handlers", *modules)),
        "HEADRACE_LOG_LEVEL": "debug",
        # Without this option, curl succeeds although the server has rejected the request.
        "CURL_HOME": str(folder),
        # The contexts of the docs must not change the configuration of the user who runs the tests.
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    (folder / ".curlrc").write_text("fail-with-body\n")
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [
                BIN / "headrace",
                "up",
                "--gateway-port",
                "0",
                "--web-port",
                "0",
                "--log-format",
                "json",
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env=environment,
        )
    stop = threading.Event()
    busy = None
    try:
        output = ""
        while "Ctrl-C stops it" not in output:
            line = process.stdout.readline()
            assert line, (folder / "up.log").read_text()
            output += line
        address = re.search(r"API +(\S+)", output)[1]
        web = re.search(r"Web +http://(\S+)", output)[1]
        servers = running_servers(folder / ".headrace")
        job_id, cursor = asyncio.run(_failed_job(address))
        busy = threading.Thread(target=_keep_busy, args=(address, stop), daemon=True)
        busy.start()
        yield LivePlatform(
            folder=folder,
            environment=environment
            | {
                "HEADRACE_TARGET": address,
                "HEADRACE_DATABASE_URL": servers.database_url,
                "HEADRACE_REDIS_URL": servers.redis_url or "",
            },
            replacements={
                "127.0.0.1:50051": address,
                "127.0.0.1:8080": web,
                "JOB_ID": job_id,
                "JOB…": job_id,
                "01a2…": job_id,
                "CURSOR": cursor,
                '"cursor": "…"': f'"cursor": "{cursor}"',
                "./handler": "cat",
            },
        )
    finally:
        stop.set()
        if busy is not None:
            busy.join(DEADLINE_S)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)
        process.stdout.close()


async def _failed_job(address: str) -> tuple[str, str]:
    """Submit a job that fails; return its id and a cursor."""
    async with Client(address) as client, client.watch(labels={"docs": "failed"}) as watch:
        job = await client.submit("broken", {}, labels={"docs": "failed"})
        async with asyncio.timeout(DEADLINE_S):
            async for event in watch:
                if event.state.terminal:
                    break
        assert watch.cursor is not None
        return job.id, watch.cursor


def _keep_busy(address: str, stop: threading.Event) -> None:
    """Submit jobs with the labels and the queue that the watches in the docs use."""
    with SyncClient(address) as client:
        while not stop.wait(0.2):
            client.submit("square_sum", {"data": [1]}, labels={"team": "ml"})
            client.submit("square_sum", {"data": [1]}, queue="invoices")


@pytest.fixture(autouse=True)
def delete_subscription(request: pytest.FixtureRequest) -> None:
    """Delete the subscription that several blocks create."""
    if "live" in request.fixturenames:
        target = request.getfixturevalue("live").environment["HEADRACE_TARGET"]
        with SyncClient(target) as client, suppress(SubscriptionNotFound):
            client.delete_subscription("billing")


def block_ids(values: list[Block]) -> list[str]:
    return [value.place for value in values]


SHELL_BLOCKS = [one for one in BLOCKS if one.is_shell and one.reason is None]
PYTHON_BLOCKS = [
    one
    for one in BLOCKS
    if one.language == "python" and one not in HANDLER_BLOCKS and one.reason is None
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=block_ids(SHELL_BLOCKS))
def test_shell_block_runs_unchanged(live_platform: LivePlatform, block: Block) -> None:
    for command in block.commands():
        if reason_of(command) is None:
            live_platform.run(
                ["bash", "-euo", "pipefail", "-c", live_platform.fill(command)],
                endless=ENDLESS_PATTERN.search(command) is not None,
            )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=block_ids(PYTHON_BLOCKS))
def test_python_block_runs_unchanged(live_platform: LivePlatform, block: Block) -> None:
    code = live_platform.fill(block.text)
    if not is_program(code):
        code = PRELUDE.format(body=textwrap.indent(code, " " * 8))
    live_platform.run(
        [sys.executable, "-u", "-c", code], endless=ENDLESS_PATTERN.search(block.text) is not None
    )


def is_program(code: str) -> bool:
    """Return whether the code compiles as a program; an excerpt awaits at the top level."""
    try:
        compile(code, "<docs>", "exec")
    except SyntaxError:
        return False
    return True


@pytest.mark.timeout(300)
def test_handlers_in_the_docs_are_loaded(live_platform: LivePlatform) -> None:
    declared = {
        name
        for block in HANDLER_BLOCKS
        if block.reason is None
        for name in re.findall(r'@handler\(\s*"([^"]+)"', block.text)
    }
    with SyncClient(live_platform.environment["HEADRACE_TARGET"]) as client:
        served_types = {info.type for info in client.handlers()}
        assert declared
        assert declared <= served_types
        assert client.submit("ship", {"items": ["a", "b"]}).result() == {"shipped": 2}


def test_json_blocks_are_valid_json() -> None:
    for block in BLOCKS:
        if block.language in {"json", "jsonl"} or (
            not block.language and block.text.startswith("{")
        ):
            for line in block.text.splitlines() if block.language != "json" else [block.text]:
                json.loads(line)


def test_docs_contain_shell_and_python_blocks() -> None:
    assert len(SHELL_BLOCKS) > 8
    assert len(PYTHON_BLOCKS) > 2
