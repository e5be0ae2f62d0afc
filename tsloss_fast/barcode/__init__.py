"""Functionals of 0-dimensional barcodes, differentiable and batched.

`deaths` is (..., M) as `h0_persistence` gives it: the M = N-1 finite deaths of each cloud in
ascending order, all births 0. `lengths` (...) gives the number of *points* of each cloud of a
padded batch; a cloud of n points has n - 1 bars, and the padding is ignored. Without bars every
functional is 0. `lengths_a` and `lengths_b` are the same for the two barcodes of a distance.

Deaths may be of any floating type and on any device; results are of the same. Where nothing else is
said, they are in the units of the deaths and take O(M) a cloud. Every function raises `TypeError`
for deaths that are no floating tensor, and `ValueError` for shapes, lengths and parameters that do
not fit.
"""

from __future__ import annotations

from .distances import bottleneck_distance, wasserstein_distance
from .functionals import (
    betti_curve,
    coefficient_of_variation,
    mean_death,
    num_components,
    persistent_entropy,
    redundancy,
    relative_variance,
    scale_free_terms,
    total_deviation,
    total_persistence,
    variance,
)
from .linkage import single_linkage

__all__ = [  # noqa: RUF022 - in the order in which one reads of them
    "total_persistence",
    "mean_death",
    "variance",
    "relative_variance",
    "coefficient_of_variation",
    "redundancy",
    "scale_free_terms",
    "total_deviation",
    "persistent_entropy",
    "betti_curve",
    "num_components",
    "bottleneck_distance",
    "wasserstein_distance",
    "single_linkage",
]
