"""Discovery of the running servers of a data folder by another process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.running import NoRunningServers, running_servers


@pytest.mark.skipif(
    any(name.startswith("HEADRACE_TEST_") for name in os.environ),
    reason="the tests use external servers",
)
def test_running_servers_are_found_with_their_passwords(
    data_folder: DataFolder, postgres_url: str, redis_server_url: str
) -> None:
    servers = running_servers(data_folder.path)
    assert (servers.database_url, servers.redis_url) == (postgres_url, redis_server_url)


def test_missing_folder_has_no_servers(tmp_path: Path) -> None:
    with pytest.raises(NoRunningServers, match="is running in"):
        running_servers(tmp_path / "nowhere")


def test_files_of_a_killed_server_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "postgres").write_text("secret")
    # This process id is greater than the maximum.
    (tmp_path / "postgres" / "postmaster.pid").write_text("99999999\n/data\n1\n5432\n\n*\n")
    with pytest.raises(NoRunningServers) as rejected:
        running_servers(tmp_path)
    assert "secret" not in str(rejected.value)
