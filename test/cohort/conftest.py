"""What the tests of cohorts share: one Ray for all that run in this process, as it takes seconds and a gigabyte."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cohort.machines import Machines


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All are slow, as a set-up with Ray is not what everybody has."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def machines() -> "Iterator[Machines]":
    """This machine, without a GPU."""
    from cohort.machines import connected

    with connected(None, 0) as found:
        yield found
