"""Clouds that move, recorded step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pyarrow")
pytest.importorskip("gudhi")
pytest.importorskip("sklearn")

from tsloss_fast.analysis import TopologyTracker, read_record


def walk(steps: int, shape: tuple[int, ...] = (12, 5), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randn(steps, *shape, generator=generator, dtype=torch.float64)
    moves[1:] *= 0.2
    return list(moves.cumsum(0))


def record_all(path: Path, points_of_steps: list[Any], /, **options: Any) -> Any:
    with TopologyTracker(path, **options) as tracker:
        for step, points in enumerate(points_of_steps):
            tracker.record(step, points)
    return read_record(path)
