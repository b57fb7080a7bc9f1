"""Loading handlers: built-in ones, modules by name, and installed packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LOAD_PROGRAM = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # simulate a missing package
from headrace_core.runtime import logs
from headrace_core.runtime.settings import Settings
from headrace_worker.api.loading import load_handlers
settings = Settings()
logs.configure(settings, service="worker")
registry = load_handlers(settings.handlers, builtins=settings.builtins)
print(json.dumps([handler.spec.type for handler in registry]))
"""
NUMBERS = ["cube_sum", "square_sum", "sum_range"]
EXTRAS = {
    "ai_task": ["httpx2", "openai", "vaderSentiment"],
    "data_cleaning": ["polars"],
    "email": ["aiosmtplib"],
    "http_request": ["httpx2"],
}
PACKAGE = {
    "pyproject.toml": """
        [project]
        name = "acme-jobs"
        version = "1.0"
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project.entry-points."headrace.handlers"]
        orders = "acme_jobs.orders"
        reports = "acme_jobs.reports"
        """,
    "src/acme_jobs/__init__.py": "",
    "src/acme_jobs/orders.py": """
        from headrace_worker import handler

        @handler("acme.order")
        def order(payload: int) -> int:
            return payload
        """,
    "src/acme_jobs/reports.py": """
        from headrace_worker import require_packages

        require_packages("acme_pdf", install="acme-jobs[reports]")

        import acme_pdf
        """,
}


def load(missing: list[str], **environment: str) -> tuple[list[str], list[dict[str, str]]]:
    """Load the handlers in a new process; return their types and the log lines."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD_PROGRAM, json.dumps(missing)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=60,
    )
    return json.loads(done.stdout), [json.loads(line) for line in done.stderr.splitlines()]


@pytest.fixture
def installed_package(tmp_path: Path) -> Path:
    """A folder with an installed package that contains handlers."""
    source, target = tmp_path / "source", tmp_path / "target"
    for name, text in PACKAGE.items():
        file = source / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    subprocess.run(
        [
            *(Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--python", sys.executable, "--target", target, source),
        ],
        check=True,
        env=os.environ | {"UV_NO_CACHE": "1"},
        timeout=100,
    )
    return target


def test_installed_package_registers_its_handlers(installed_package: Path) -> None:
    types, [line] = load([], HEADRACE_BUILTIN_HANDLERS="numbers", PYTHONPATH=str(installed_package))
    assert types == ["acme.order", *NUMBERS]
    # The package's other module requires a missing package.
    assert (line["event"], line["level"], line["handler"]) == (
        "handler_left_out",
        "info",
        "reports",
    )
    assert line["advice"] == "install acme-jobs[reports]"


def test_builtin_handlers_without_their_packages_are_skipped() -> None:
    types, lines = load(sorted({one for packages in EXTRAS.values() for one in packages}))
    assert types == NUMBERS
    assert {line["handler"]: line["missing"] for line in lines} == EXTRAS
    assert {(line["event"], line["level"]) for line in lines} == {("handler_left_out", "info")}
    assert "install headrace-handlers[email]" in lines[2]["advice"]


def test_named_builtin_handler_without_its_packages_is_a_warning() -> None:
    types, [line] = load(["polars"], HEADRACE_BUILTIN_HANDLERS="data_cleaning,numbers")
    assert types == NUMBERS
    assert (line["level"], line["missing"]) == ("warning", ["polars"])


def test_builtin_handlers_can_be_turned_off() -> None:
    assert load([], HEADRACE_BUILTIN_HANDLERS="false") == ([], [])


def test_module_without_handlers_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "full.py").write_text(
        "from headrace_worker import handler\n"
        "@handler('mine')\n"
        "def mine(payload: int) -> int:\n"
        "    return payload\n"
    )
    types, [line] = load(
        [],
        HEADRACE_BUILTIN_HANDLERS="false",
        # The second `full` repeats the first.
        HEADRACE_HANDLERS="full,empty,full",
        PYTHONPATH=str(tmp_path),
    )
    assert types == ["mine"]
    assert (line["event"], line["module"]) == ("module_without_handlers", "empty")
