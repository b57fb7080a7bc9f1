"""Which servers the operator's commands ask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace_ops.servers import ServersNotFound, describe, find_settings
from headrace_standalone.embedded.folder import DataFolder

OWN_SERVERS = pytest.mark.skipif(
    any(name.startswith("HEADRACE_TEST_") for name in os.environ),
    reason="the servers of the tests are not embedded ones",
)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in which nothing runs, to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_those_of_the_environment(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    (elsewhere / ".headrace").mkdir()
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://me@db/jobs")
    assert find_settings(None).postgresql_url == "postgresql://me@db/jobs"


def test_those_of_the_defaults_when_nothing_is_said() -> None:
    assert "127.0.0.1:5432" in find_settings(None).postgresql_url


@OWN_SERVERS
def test_those_of_a_folder(
    monkeypatch: pytest.MonkeyPatch, data_folder: DataFolder, postgres_url: str
) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://me@db/jobs")
    assert find_settings(data_folder.path).postgresql_url == postgres_url


@OWN_SERVERS
def test_those_of_the_folder_in_which_headrace_up_runs_here(
    elsewhere: Path, data_folder: DataFolder, postgres_url: str
) -> None:
    (elsewhere / ".headrace").symlink_to(data_folder.path)
    assert find_settings(None).postgresql_url == postgres_url


def test_a_folder_in_which_nothing_runs_is_refused(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    (elsewhere / ".headrace").mkdir()
    with pytest.raises(ServersNotFound, match="no headrace up"):
        find_settings(None)
    # Whoever names a folder does not mean another database.
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://me@db/jobs")
    with pytest.raises(ServersNotFound, match="no headrace up"):
        find_settings(elsewhere)


def test_a_wrong_setting_is_named_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "mysql://me:pa55word@db/jobs")
    with pytest.raises(ServersNotFound, match="HEADRACE_DATABASE_URL") as refused:
        find_settings(None)
    assert "pa55word" not in str(refused.value)


def test_where_it_is_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (
        "postgresql://me:pa55word@db:5433/jobs",
        "postgresql://me:pa55@word@db:5433/jobs?sslmode=require",
        "postgresql://db:5433/jobs?user=me&password=pa55word",
    ):
        monkeypatch.setenv("HEADRACE_DATABASE_URL", url)
        assert describe(find_settings(None)) == "db:5433/jobs"
