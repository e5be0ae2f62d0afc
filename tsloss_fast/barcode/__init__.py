"""Functionals of 0-dimensional barcodes, differentiable and batched.

`deaths` is (..., M) as `h0_persistence` gives it: the M = N-1 finite deaths of each cloud in
ascending order, all births 0. `lengths` (...) gives the number of *points* of each cloud of a
padded batch; a cloud of n points has n - 1 bars, and the padding is ignored. Without bars every
functional is 0. `lengths_a` and `lengths_b` are the same for the two barcodes of a distance.

The jagged deaths (B, m*) of a nested tensor are taken too, without `lengths`, and give (B,). Each
of its clouds counts as one of m + 1 points, so an empty cloud counts as a single point. On a GPU
the call waits for the device, because the longest row decides the size of the padded batch.

Deaths may be of any floating type and on any device; results are of the same. From deaths in a
NumPy array the result is an array as well, and for one cloud an array of shape (). Arguments must
be tensors together or arrays together; `lengths`, and scales beside a tensor of deaths, may be of
either kind. Results are in the units of the deaths and take O(M) a cloud, unless a function says
otherwise. Every function raises `TypeError` for deaths that are neither a floating tensor nor such
an array, and `ValueError` for shapes, lengths and parameters that do not fit.
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
