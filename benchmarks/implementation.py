"""What an implementation is to the benchmark: a name, how to get it, and how to call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import util
from typing import Any, Literal

import numpy as np
import torch

from .workloads import Workload

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Call:
    """A prepared call.

    ``run`` is what is timed: from a float32 torch tensor to the library's own result. ``deaths``
    and ``gradient`` read that result, untimed, so that it can be compared before anything is
    measured.
    """

    run: Callable[[], Any]
    deaths: Callable[[Any], Array] | None = None
    gradient: Callable[[Any], Array] | None = None


@dataclass(frozen=True)
class Implementation:
    """A way to do the work of a workload.

    Attributes:
        label: the name in tables and plots.
        about: one line on what is called and what it gives.
        prepare: ``(points, threads) -> Call``.
        requires: importable module -> requirement for pip.
        most_points: clouds with more points are not run, because a call would take too long.
        role: ``"ours"``; ``"baseline"`` computes the same; ``"yardstick"`` is work of known cost.
    """

    label: str
    about: str
    prepare: Callable[[torch.Tensor, int], Call]
    requires: Mapping[str, str] = field(default_factory=dict)
    most_points: int | None = None
    role: Literal["ours", "baseline", "yardstick"] = "baseline"

    def missing(self) -> str:
        """The pip requirements that are not installed, separated by spaces; empty if none."""
        absent = [pip for module, pip in self.requires.items() if util.find_spec(module) is None]
        return " ".join(absent)

    def obstacle(self, workload: Workload, limits: bool = True) -> tuple[str, str] | None:
        """Why it cannot be measured on ``workload``, as (status, reason), or None if it can."""
        if missing := self.missing():
            return "not installed", f"pip install {missing}"
        if limits and self.most_points is not None and workload.points > self.most_points:
            return "not run", f"too slow for this suite above {self.most_points} points"
        return None


def per_cloud(points: torch.Tensor) -> list[torch.Tensor]:
    """The clouds of a batch, for libraries that take one at a time."""
    return list(points) if points.ndim == 3 else [points]


def stack_deaths(deaths: list[Array], points: torch.Tensor) -> Array:
    """Ascending float64 deaths, ``(N-1,)`` or ``(B, N-1)``.

    SciPy drops edges of length 0 from a tree: they are put back, since they are bars of length 0.
    """
    bars = points.shape[-2] - 1
    rows = np.zeros((len(deaths), bars))
    for row, values in zip(rows, deaths, strict=True):
        finite = np.sort(np.asarray(values, dtype=np.float64).ravel())
        finite = finite[finite != np.inf]
        if len(finite) > bars:
            raise ValueError(f"gave {len(finite)} finite bars for {bars + 1} points")
        row[bars - len(finite) :] = finite
    return rows if points.ndim == 3 else rows[0]
