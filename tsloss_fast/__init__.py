"""Exact 0-dimensional persistence of point clouds, differentiable in PyTorch, and the topological
soft prompt loss (TSLoss) on top of it."""

from . import _core, barcode
from ._progress import progress
from .functional import H0Persistence, h0_persistence, h0_persistence_from_distances
from .loss import TSLoss
from .ragged import H0PersistenceVarlen, h0_persistence_varlen

__version__ = _core.version

__all__ = [
    "H0Persistence",
    "H0PersistenceVarlen",
    "TSLoss",
    "__version__",
    "barcode",
    "h0_persistence",
    "h0_persistence_from_distances",
    "h0_persistence_varlen",
    "progress",
]
