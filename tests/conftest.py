from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def core_defaults() -> Iterator[None]:
    """Puts back whatever a test chooses: the instruction set, the path and the threads."""
    import torch

    from tsloss_fast import _core

    before, threads = _core.isa(), torch.get_num_threads()
    yield
    _core.set_overrides()
    _core.set_isa(before)
    torch.set_num_threads(threads)
