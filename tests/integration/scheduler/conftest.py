"""What the tests of the scheduler share."""

from __future__ import annotations

import pytest

from support.databases import Databases


@pytest.fixture
def database_url(databases: Databases) -> str:
    """An empty database with the schema, which these tests share."""
    return databases.emptied()
