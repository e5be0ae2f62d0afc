from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from processes import Processes


@pytest.fixture(scope="session")
def processes_of() -> Iterator[Callable[[int], Processes]]:
    """Groups by their size, started once."""
    started: dict[int, Processes] = {}

    def of(size: int) -> Processes:
        if size not in started:
            started[size] = Processes(size)
        return started[size]

    yield of
    for processes in started.values():
        processes.close()


@pytest.fixture(scope="session", params=[2, 3, 4], ids=lambda size: f"{size} processes")
def group(request: pytest.FixtureRequest, processes_of: Callable[[int], Processes]) -> Processes:
    return processes_of(request.param)


@pytest.fixture(scope="session")
def pair(processes_of: Callable[[int], Processes]) -> Processes:
    return processes_of(2)
