"""The servers of a folder are found by those who did not start them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.running import NothingRuns, running_servers


@pytest.mark.skipif(
    any(name.startswith("HEADRACE_TEST_") for name in os.environ),
    reason="the servers of the tests are not embedded ones",
)
def test_running_servers_are_found_with_their_passwords(
    data_folder: DataFolder, postgres_url: str, redis_server_url: str
) -> None:
    servers = running_servers(data_folder.path)
    assert (servers.database_url, servers.redis_url) == (postgres_url, redis_server_url)


def test_a_folder_that_is_not_there_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(NothingRuns, match="is running in"):
        running_servers(tmp_path / "nowhere")


def test_what_a_killed_server_has_left_behind_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "postgres").write_text("secret")
    # No process has so great a number.
    (tmp_path / "postgres" / "postmaster.pid").write_text("99999999\n/data\n1\n5432\n\n*\n")
    with pytest.raises(NothingRuns) as refused:
        running_servers(tmp_path)
    assert "secret" not in str(refused.value)
