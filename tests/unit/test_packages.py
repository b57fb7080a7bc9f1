"""The packages: their metadata, and a worker without the packages of the built-in handlers."""

from __future__ import annotations

import email
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from headrace_core.runtime.settings import BUILTIN_HANDLERS
from headrace_worker.handlers import BUILTINS

ROOT = Path(__file__).parents[2]
PACKAGES = sorted([*(ROOT / "services").iterdir(), ROOT / "clients" / "python"])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_package_has_license_and_readme(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (package / project["readme"]).read_text().startswith(f"# {project['name']}\n")


def test_wheel_of_the_worker_contains_its_metadata(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(Path(sys.executable).with_name("uv"), "build", "--quiet", "--wheel"),
            *("--no-build-isolation", "--python", sys.executable, "--out-dir", tmp_path),
            ROOT / "services" / "worker",
        ],
        check=True,
        timeout=100,
    )
    [file] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(wheel.read(name))
        licenses = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    assert len(licenses) == 1
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_payload().lstrip().startswith("# headrace-worker")
    needed = [one for one in metadata.get_all("Requires-Dist") if "extra ==" not in one]
    heavy = ("polars", "openai", "httpx2", "vadersentiment", "aiosmtplib")
    assert not [one for one in needed if one.lower().startswith(heavy)]
    assert set(metadata.get_all("Provides-Extra")) == {"ai", "data", "email", "http", "handlers"}


def test_each_extra_installs_the_packages_of_its_handlers() -> None:
    pyproject = tomllib.loads((ROOT / "services" / "worker" / "pyproject.toml").read_text())
    extras = pyproject["project"]["optional-dependencies"]
    for builtin in BUILTINS:
        declared = {one.partition(">=")[0] for one in extras.get(builtin.extra, [])}
        assert declared == set(builtin.packages)
    assert tuple(builtin.name for builtin in BUILTINS) == BUILTIN_HANDLERS


LOAD = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # as if it was not installed
from headrace_core.runtime import logs
from headrace_core.runtime.settings import Settings
from headrace_worker.api.registry import load_handlers
settings = Settings()
logs.configure(settings, service="worker")
registry = load_handlers(settings.handlers, builtins=settings.builtins)
print(json.dumps([handler.spec.type for handler in registry]))
"""
NUMBERS = ["cube_sum", "square_sum", "sum_range"]


def load(missing: list[str], **environment: str) -> tuple[list[str], list[dict[str, str]]]:
    """Load the handlers in a process of its own; return their types and the lines of log."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(missing)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=60,
    )
    return json.loads(done.stdout), [json.loads(line) for line in done.stderr.splitlines()]


def test_handler_without_its_packages_is_left_out() -> None:
    missing = sorted({package for builtin in BUILTINS for package in builtin.packages})
    types, lines = load(missing)
    assert types == NUMBERS
    assert [(line["event"], line["handler"]) for line in lines] == [
        ("builtin_handler_left_out", builtin.name) for builtin in BUILTINS if builtin.packages
    ]
    assert {line["level"] for line in lines} == {"info"}
    assert "install headrace-worker[email]" in lines[2]["advice"]


def test_named_handler_without_its_packages_is_a_warning() -> None:
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
        # The second `full` is loaded already.
        HEADRACE_HANDLERS="full,empty,full",
        PYTHONPATH=str(tmp_path),
    )
    assert types == ["mine"]
    assert (line["event"], line["module"]) == ("module_without_handlers", "empty")


def test_client_asks_for_the_versions_of_its_generated_code() -> None:
    stubs = ROOT / "clients/python/src/headrace/v1"
    messages = (stubs / "job_service_pb2.py").read_text()
    calls = (stubs / "job_service_pb2_grpc.py").read_text()
    protobuf = re.search(r"^# Protobuf Python Version: (\S+)$", messages, re.MULTILINE)[1]
    grpcio = re.search(r"^GRPC_GENERATED_VERSION = '(\S+)'$", calls, re.MULTILINE)[1]
    pyproject = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())
    assert set(pyproject["project"]["dependencies"]) == {
        f"grpcio>={grpcio}",
        f"protobuf>={protobuf}",
    }
