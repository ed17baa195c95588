"""What tests of runs have: a database at the current schema, of either kind, with an account."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from run_making import opened
from vividcover.store.database import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """With account `alice` and her tokens. Tests that need one kind only have a fixture of their own."""
    with opened(database_url) as database:
        yield database
