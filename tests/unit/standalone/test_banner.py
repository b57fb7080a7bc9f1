"""The banner of `headrace up`: commands that run as printed."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from headrace_standalone.banner import banner, command_path
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.stack import Plan

BIN = Path(sys.executable).parent


def test_command_on_path_is_shown_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(BIN), prepend=os.pathsep)
    assert command_path("headrace") == "headrace"


def test_command_off_path_is_shown_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(BIN.parent.parent)
    assert command_path("headrace") == f"{BIN.parent.name}/bin/headrace"
    monkeypatch.chdir("/")
    assert Path(shlex.split(command_path("headrace"))[0]).exists()
    assert command_path("no-such-command") is None


def test_foreign_command_of_the_same_name_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "headrace").write_text("#!/bin/sh\n")
    (tmp_path / "headrace").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{BIN}")
    assert Path(command_path("headrace")).resolve() == (BIN / "headrace").resolve()


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:50051", ""),
        ("127.0.0.1:6000", "HEADRACE_TARGET=127.0.0.1:6000 "),
        ("0.0.0.0:6000", "HEADRACE_TARGET=127.0.0.1:6000 "),
        ("[::]:6000", "HEADRACE_TARGET=[::1]:6000 "),
    ],
)
def test_banner_names_every_address(tmp_path: Path, address: str, target: str) -> None:
    plan = Plan(
        gateway_address=address,
        web_address="0.0.0.0:8080",
        metrics_addresses={"gateway": "127.0.0.1:9464", "worker-1": "127.0.0.1:9465"},
    )
    printed = banner(plan, folder=DataFolder(tmp_path), files=tmp_path / "files")
    assert f"API     {address} (gRPC)" in printed
    assert "Web     http://127.0.0.1:8080\n" in printed
    assert "Metrics http://127.0.0.1:9464/metrics (gateway)" in printed
    assert "        http://127.0.0.1:9465/metrics (worker-1)" in printed
    assert f"  {target}{command_path('headrace')} submit square_sum" in printed


def test_secure_banner_names_encrypted_metrics(tmp_path: Path) -> None:
    addresses = {"gateway": "127.0.0.1:9464", "worker-1": "127.0.0.1:9465"}
    plan = Plan(secure=True, metrics_addresses=addresses)
    printed = banner(plan, folder=DataFolder(tmp_path), files=tmp_path / "files")
    assert "https://127.0.0.1:9464/metrics (gateway)" in printed
    assert "http://127.0.0.1:9465/metrics (worker-1)" in printed
