"""The other side of the hosted engine: a server of ours, with a worker, in processes of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from live import Live, live


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("there") / "home") as running:
        yield running
