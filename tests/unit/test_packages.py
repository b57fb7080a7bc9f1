"""The packages: their metadata, and the extras of the built-in handlers."""

from __future__ import annotations

import ast
import email
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from headrace_core.runtime.settings import BUILTIN_HANDLERS

ROOT = Path(__file__).parents[2]
PACKAGES = sorted([*(ROOT / "services").iterdir(), ROOT / "clients" / "python"])
HANDLERS = ROOT / "services" / "handlers"
EXTRAS = {"ai": "ai_task", "data": "data_cleaning", "email": "email", "http": "http_request"}


def project(package: Path) -> dict[str, Any]:
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_package_has_license_and_readme(package: Path) -> None:
    declared = project(package)
    assert declared["license"] == "MIT"
    assert declared["license-files"] == ["LICENSE"]
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (package / declared["readme"]).read_text().startswith(f"# {declared['name']}\n")


def test_handlers_wheel_contains_its_metadata(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(Path(sys.executable).with_name("uv"), "build", "--quiet", "--wheel"),
            *("--no-build-isolation", "--python", sys.executable, "--out-dir", tmp_path),
            HANDLERS,
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
    assert metadata.get_payload().lstrip().startswith("# headrace-handlers")
    needed = [one for one in metadata.get_all("Requires-Dist") if "extra ==" not in one]
    heavy = ("polars", "openai", "httpx2", "vadersentiment", "aiosmtplib")
    assert not [one for one in needed if one.lower().startswith(heavy)]
    assert set(metadata.get_all("Provides-Extra")) == {*EXTRAS, "all"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_installs_the_packages_of_its_handlers(extra: str) -> None:
    declared = {one.partition(">=")[0] for one in project(HANDLERS)["optional-dependencies"][extra]}
    module = HANDLERS / "src" / "headrace_handlers" / EXTRAS[extra]
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    [call] = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require_packages"
    ]
    assert {argument.value for argument in call.args} == declared
    assert call.keywords[0].value.value == f"headrace-handlers[{extra}]"


def test_entry_points_equal_the_builtin_handlers() -> None:
    points = project(HANDLERS)["entry-points"]["headrace.handlers"]
    assert points == {name: f"headrace_handlers.{name}" for name in BUILTIN_HANDLERS}
