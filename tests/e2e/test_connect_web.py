"""A JavaScript client with `@connectrpc/connect-web`, in Node: Connect and gRPC-Web."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
TRANSPORTS = ("json", "binary", "grpcWeb")

pytestmark = pytest.mark.skipif(
    not IN_CI and shutil.which("npm") is None, reason="npm is not installed"
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script, its packages, and the code generated from the contract."""
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
    generate = (BUF, "generate", ROOT / "protos", "--template", "buf.gen.yaml")
    subprocess.run(generate, cwd=folder, check=True, timeout=TIMEOUT_S)
    return folder / "client.js"


@pytest.mark.timeout(3 * TIMEOUT_S)
async def test_connect_web_calls_and_streams(
    client: Path, settings: Settings, database: Database
) -> None:
    await FakeWorker(database, SQUARE_SUM).register()
    gateway = Gateway(settings)
    await gateway.start()
    web = Web(settings, target=f"127.0.0.1:{gateway.port}")
    await web.start()
    try:
        process = await asyncio.create_subprocess_exec(
            *("node", client, f"http://127.0.0.1:{web.port}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(TIMEOUT_S):
            output, errors = await process.communicate()
    finally:
        await web.stop()
        await gateway.stop()
    assert process.returncode == 0, errors.decode()
    found = json.loads(output)
    for transport in TRANSPORTS:
        assert found[transport] == {
            "seen": [[1, "QUEUED"], [2, "CANCELLED"]],
            "code": "NotFound",
            "details": 2,
        }
    assert found["fetch"] == {"status": 200, "jobs": 1}
