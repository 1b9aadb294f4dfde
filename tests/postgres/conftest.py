"""What the tests of the database's URL share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def no_pg_variables() -> Iterator[None]:
    """Remove the variables of PostgreSQL's clients, such as PGHOST, from the environment."""
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("PG")]:
            patched.delenv(name)
        yield
