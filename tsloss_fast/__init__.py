"""Exact 0-dimensional persistence of point clouds, differentiable in PyTorch, and the topological
soft prompt loss (TSLoss) on top of it."""

import sys
from typing import TYPE_CHECKING, Any

from . import _core

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

# Importing torch takes more than a second. A program that uses it has mostly imported it already,
# and then expects the operators in torch.ops.tsloss_fast, as `torch.export.load` does. Where it has
# not, each name is imported when it is first used, so that `tsloss --help` answers at once.
if TYPE_CHECKING or "torch" in sys.modules:
    from . import barcode
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
else:

    def __getattr__(name: str) -> Any:
        import importlib

        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = name if name == "barcode" else "loss" if name == "TSLoss" else "functional"
        module = importlib.import_module(f".{home}", __name__)
        globals()[name] = module if name == "barcode" else getattr(module, name)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
