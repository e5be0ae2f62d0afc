"""What every call of the native core needs: codes, checked pointers, room for the bars, and errors
from what it found."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

METRICS = {"euclidean": 0, "sqeuclidean": 1, "cosine": 2, "manhattan": 3}
DTYPES = {torch.float32: 0, torch.float64: 1}


_CPU = torch.device("cpu")


def pointer(
    t: Tensor,
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device = _CPU,
) -> int:
    """The address of a tensor that a kernel may read or write as ``shape`` numbers of ``dtype``.

    Every pointer that reaches C++ passes here: a wrong type or layout would not raise there, it
    would corrupt memory.
    """
    if t.device != device or t.dtype is not dtype or tuple(t.shape) != shape:
        raise TypeError(
            f"{name}: expected a tensor on {device} of shape {shape} and type {dtype}, "
            f"got {t.device}, {tuple(t.shape)}, {t.dtype}"
        )
    if not t.is_contiguous():
        raise TypeError(f"{name}: expected a contiguous tensor, got strides {t.stride()}")
    return t.data_ptr()


def check_lengths_range(lengths: Tensor, points: int) -> None:
    """ValueError unless all numbers are in [0, points]."""
    bad = (lengths < 0) | (lengths > points)
    if bool(bad.any()):
        cloud = int(bad.flatten().nonzero()[0])
        raise ValueError(
            f"lengths: expected numbers between 0 and {points} (the points of a padded cloud), "
            f"got {int(lengths.flatten()[cloud])} for cloud {cloud}"
        )


def type_of_deaths(dtype: torch.dtype) -> torch.dtype:
    """float32 for half types."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def empty_bars(t: Tensor) -> tuple[Tensor, Tensor]:
    """Deaths (B, M) and edges (B, M, 2) of points (B, N, ...), to be written."""
    batch, n = t.shape[0], t.shape[1]
    bars = torch.sym_max(n - 1, 0)
    deaths = t.new_empty((batch, bars), dtype=type_of_deaths(t.dtype))
    return deaths, t.new_empty((batch, bars, 2), dtype=torch.int64)


_ADVICE_FINITE = "remove it, mask it with `lengths`, or pass check_finite=False to get NaN deaths"


def raise_finding(
    finding: tuple[int, int, int, int], batch: int, what: str, dtype: torch.dtype
) -> NoReturn:
    problem, cloud, i, j = finding
    where = f"cloud {cloud} of {batch}" if batch > 1 else "the cloud"
    if what == "distances":
        entry = f"distances: entry ({i}, {j}) of {where}"
        raise ValueError(
            {
                1: f"{entry} is NaN or infinite; expected finite distances. If an infinite entry "
                "means that two points are not connected, pass check_finite=False: bars that no "
                "finite entry ends then have infinite deaths. A point with NaN can be removed, or "
                "masked with `lengths`; with check_finite=False the deaths of its cloud are NaN",
                4: f"{entry} is negative; expected distances, which are >= 0",
                5: f"{entry} is on the diagonal and not zero; expected the distance of a point to "
                "itself to be 0. If the matrix comes from torch.cdist, pass "
                "compute_mode='donot_use_mm_for_euclid_dist' there, or give the points to "
                "h0_persistence",
                6: f"{entry} differs from its mirror image ({j}, {i}); expected a symmetric "
                "matrix. Pass (d + d.mT) / 2 if the difference is meant to be averaged",
            }[problem]
        )
    raise ValueError(
        {
            1: f"points: point {i} of {where} contains NaN or infinity; {_ADVICE_FINITE}",
            2: f"points: point {i} of {where} is the zero vector, to which the cosine distance is "
            "undefined; remove it, mask it with `lengths`, or use another metric",
            3: f"points: the distance of points {i} and {j} of {where} is above the largest "
            f"{dtype}; rescale the points" + (" or use float64" if dtype is torch.float32 else ""),
        }[problem]
    )
