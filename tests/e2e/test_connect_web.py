"""JavaScript clients in Node: `@connectrpc/connect-web`, and code from the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from headrace_web.service import Web
from support.gateway import SQUARE_SUM, FakeWorker

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
IN_CI = bool(os.environ.get("CI"))
TIMEOUT_S = 120
OPENAPI = Path(str(files("headrace_web.rest"))) / "openapi.json"
TYPE_CHECKS = (
    *("--strict", "--skipLibCheck", "--module", "esnext", "--target", "es2022"),
    *("--moduleResolution", "bundler", "--lib", "es2023,dom,dom.iterable"),
)
TRANSPORTS = ("json", "binary", "grpcWeb")

pytestmark = pytest.mark.skipif(
    not IN_CI and shutil.which("npm") is None, reason="npm is not installed"
)


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts and their packages."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(Path(__file__).with_name("node"), folder, dirs_exist_ok=True)
    install = ("npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")
    # Without a network, the install fails soon.
    install += ("--fetch-retries", "0", "--fetch-timeout", "30000")
    try:
        subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        if IN_CI:
            raise
        pytest.skip(f"npm cannot install the packages: {error}")
    return folder


@pytest.fixture(scope="module")
def connect_client(node_folder: Path) -> Path:
    """The script, with code from the contract."""
    generate = (BUF, "generate", ROOT / "protos", "--template", "buf.gen.yaml")
    subprocess.run(generate, cwd=node_folder, check=True, timeout=TIMEOUT_S)
    return node_folder / "client.js"


@pytest.fixture(scope="module")
def openapi_client(node_folder: Path) -> Path:
    """The script, checked against the types from the OpenAPI document, in one file."""
    for command in (
        ("openapi-ts", "-i", OPENAPI, "-o", "openapi", "--no-log-file"),
        ("tsc", "--noEmit", *TYPE_CHECKS, "openapi_client.ts"),
        (
            "esbuild",
            "openapi_client.ts",
            "--bundle",
            "--format=esm",
            "--outfile=openapi_client.mjs",
        ),
    ):
        done = subprocess.run(
            (node_folder / "node_modules" / ".bin" / command[0], *command[1:]),
            cwd=node_folder,
            check=False,
            capture_output=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return node_folder / "openapi_client.mjs"


@pytest.fixture
async def url(settings: Settings, database: Database) -> AsyncIterator[str]:
    """The URL of a web service with a gateway and a live worker."""
    await FakeWorker(database, SQUARE_SUM).register()
    gateway = Gateway(settings)
    await gateway.start()
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    yield f"http://127.0.0.1:{web.port}"
    await web.stop()
    await gateway.stop()


async def run_script(script: Path, url: str) -> Any:
    """Run a script in Node, and return the JSON that it prints."""
    process = await asyncio.create_subprocess_exec(
        *("node", script, url), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(TIMEOUT_S):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(output)


@pytest.mark.timeout(3 * TIMEOUT_S)
async def test_connect_web_calls_and_streams(connect_client: Path, url: str) -> None:
    found = await run_script(connect_client, url)
    for transport in TRANSPORTS:
        assert found[transport] == {
            "seen": [[1, "QUEUED"], [2, "CANCELLED"]],
            "code": "NotFound",
            "details": 2,
        }
    assert found["fetch"] == {"status": 200, "jobs": 1}


@pytest.mark.timeout(6 * TIMEOUT_S)
async def test_client_from_the_openapi_document_makes_calls(openapi_client: Path, url: str) -> None:
    assert await run_script(openapi_client, url) == {
        "status": 201,
        "payload": {"data": [1]},
        "state": "JOB_STATE_CANCELLED",
        "error": [404, "JOB_NOT_FOUND"],
    }
