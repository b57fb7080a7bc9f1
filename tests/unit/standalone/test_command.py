"""The command `up`, as the command line imports it."""

from __future__ import annotations

import subprocess
import sys


def test_import_of_the_command_loads_no_heavy_package() -> None:
    code = "import sys, headrace_standalone.command; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert not {"asyncpg", "grpc", "pydantic", "redis", "sqlalchemy"} & set(loaded)
