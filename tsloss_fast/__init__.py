"""Exact 0-dimensional persistence of point clouds, differentiable in PyTorch, and the topological
soft prompt loss (TSLoss) on top of it."""

from . import _core, barcode
from .functional import (
    H0Persistence,
    H0PersistenceVarlen,
    edge_lengths,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
    progress,
)
from .loss import TSLoss

__version__ = _core.version

__all__ = [
    "H0Persistence",
    "H0PersistenceVarlen",
    "TSLoss",
    "__version__",
    "barcode",
    "edge_lengths",
    "h0_persistence",
    "h0_persistence_from_distances",
    "h0_persistence_varlen",
    "progress",
]
