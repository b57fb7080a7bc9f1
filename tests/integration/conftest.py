"""The shared database of tests that do not change the schema."""

from __future__ import annotations

import pytest

from support.databases import Databases


@pytest.fixture
def database_url(databases: Databases) -> str:
    """An empty database with the schema, shared by these tests.

    A test that changes the schema or the settings of its database must use `own_database_url`.
    """
    return databases.empty_shared()
