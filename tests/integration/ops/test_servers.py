"""The choice of servers by the commands for operators."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace_ops.servers import ServersNotFound, describe_database, find_settings
from headrace_standalone.embedded.folder import DataFolder

EMBEDDED_SERVERS = pytest.mark.skipif(
    any(name.startswith("HEADRACE_TEST_") for name in os.environ),
    reason="the tests use external servers",
)


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_environment_names_the_database(
    monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    (empty_folder / ".headrace").mkdir()
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://me@db/jobs")
    assert find_settings(None).postgresql_url == "postgresql://me@db/jobs"


def test_default_database_is_local() -> None:
    assert "127.0.0.1:5432" in find_settings(None).postgresql_url


@EMBEDDED_SERVERS
def test_named_folder_overrides_the_environment(
    monkeypatch: pytest.MonkeyPatch, data_folder: DataFolder, postgres_url: str
) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://me@db/jobs")
    assert find_settings(data_folder.path).postgresql_url == postgres_url


@EMBEDDED_SERVERS
def test_local_data_folder_is_the_default(
    empty_folder: Path, data_folder: DataFolder, postgres_url: str
) -> None:
    (empty_folder / ".headrace").symlink_to(data_folder.path)
    assert find_settings(None).postgresql_url == postgres_url


def test_folder_without_servers_is_rejected(
    monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    (empty_folder / ".headrace").mkdir()
    with pytest.raises(ServersNotFound, match="no headrace up"):
        find_settings(None)
    # A named folder without servers does not fall back to another database.
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://me@db/jobs")
    with pytest.raises(ServersNotFound, match="no headrace up"):
        find_settings(empty_folder)


def test_invalid_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "mysql://me:pa55word@db/jobs")
    with pytest.raises(ServersNotFound, match="HEADRACE_DATABASE_URL") as rejected:
        find_settings(None)
    assert "pa55word" not in str(rejected.value)


def test_location_contains_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (
        "postgresql://me:pa55word@db:5433/jobs",
        "postgresql://me:pa55@word@db:5433/jobs?sslmode=require",
        "postgresql://db:5433/jobs?user=me&password=pa55word",
    ):
        monkeypatch.setenv("HEADRACE_DATABASE_URL", url)
        assert describe_database(find_settings(None)) == "db:5433/jobs"
