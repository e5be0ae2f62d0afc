"""What an implementation is to the benchmark: a name, how to get it, and how to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from typing import Any, Literal

import numpy as np
import torch

Array = np.ndarray[Any, Any]
Role = Literal["ours", "baseline", "yardstick"]
_PIP = {
    "gph": "giotto-ph",
    "sklearn": "scikit-learn",
    "torch_topological": "torch-topological",
    "tsloss_fast": "tsloss-fast",
}


@dataclass(frozen=True)
class Call:
    """A prepared call.

    ``run`` is what is timed: from a torch tensor to the library's own result. ``read`` turns that
    result, untimed, into what can be compared before anything is measured: ascending ``deaths``,
    a ``value``, a ``gradient``, or several of them.
    """

    run: Callable[[], Any]
    read: Callable[[Any], dict[str, Array]] = lambda result: {}


@dataclass(frozen=True)
class Implementation:
    """A way to do the work of a workload.

    Attributes:
        label: the name in tables and plots. What precedes a comma names a column of the table of
            training steps, which shows the fastest of those that share it.
        about: one line on what is called and what it gives.
        prepare: ``(points, threads) -> Call``.
        requires: the modules that it imports.
        role: ``"ours"``; ``"baseline"`` computes the same; ``"yardstick"`` is work of known cost.
    """

    label: str
    about: str
    prepare: Callable[[torch.Tensor, int], Call]
    requires: tuple[str, ...] = ()
    role: Role = "baseline"

    def missing(self) -> str:
        """The pip requirements that are not installed, separated by spaces; empty if none."""
        absent = [module for module in self.requires if util.find_spec(module) is None]
        return " ".join(_PIP.get(module, module) for module in absent)


def implementation(
    label: str, *requires: str, role: Role = "baseline"
) -> Callable[[Callable[[torch.Tensor, int], Call]], Implementation]:
    """Make an implementation of the function that prepares it; its docstring is the ``about``."""

    def decorate(prepare: Callable[[torch.Tensor, int], Call]) -> Implementation:
        about = " ".join((prepare.__doc__ or "").split())
        return Implementation(label, about, prepare, requires, role)

    return decorate


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
