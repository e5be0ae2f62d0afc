from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch_threads import torch_threads


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts back the threads that a test chooses."""
    with torch_threads():
        yield


@pytest.fixture
def saved_figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The matplotlib figures that a test writes to files."""
    from matplotlib.figure import Figure

    figures: list[Any] = []
    savefig = Figure.savefig

    def spy(self: Any, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        savefig(self, *args, **{**kwargs, "dpi": 30})  # Fewer points are drawn sooner.

    monkeypatch.setattr(Figure, "savefig", spy)
    return figures


@pytest.fixture
def barcodes(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one entry with every call that computes barcodes on the CPU."""
    from tsloss_fast import _core

    calls: list[None] = []

    def count(name: str, computes: Callable[..., bool]) -> None:
        function = getattr(_core, name)

        def counted(*args: Any) -> Any:
            found = function(*args)
            if computes(found, *args):
                calls.append(None)
            return found

        monkeypatch.setattr(_core, name, counted)

    count("h0_forward", lambda *_: True)
    count("everyday_h0", lambda found, *_: isinstance(found, tuple))
    count("fused_loss", lambda found, metric, points, lengths, deaths, *_: deaths is None)
    return calls


@pytest.fixture
def core_defaults() -> Iterator[None]:
    """Puts back whatever a test chooses: the instruction set, the path and the threads."""
    from tsloss_fast import _core

    before = _core.isa()
    with torch_threads():
        yield
    _core.set_overrides()
    _core.set_isa(before)
