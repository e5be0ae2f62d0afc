"""Arguments, padding, and quotients and powers that are 0 at 0: the part that functionals and
distances of barcodes share."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._batch import Array, Lengths, as_tensor, check_lengths

# A function of tensors returns tensors, and one of NumPy arrays returns arrays.
Deaths = TypeVar("Deaths", Tensor, Array)


class Bars(NamedTuple):
    """The finite bars of a batch of clouds.

    ``deaths`` (..., M) with zeros in the padding, the ``mask`` of the bars (None: all are bars),
    their ``number`` (...), and how many ``points`` (...) the clouds have (None: M + 1 each).
    """

    deaths: Tensor
    mask: Tensor | None
    number: Tensor | int
    points: Tensor | None


def finite_bars(deaths: Any, lengths: Lengths | None, name: str = "deaths") -> Bars:
    """Validate the deaths of a barcode and its lengths, and bring them into one form."""
    points: Tensor | None
    if getattr(deaths, "is_nested", False):
        x, points = _padded(deaths, lengths, name)
    else:
        x = as_tensor(deaths, name)
        if x.dim() < 1:
            raise ValueError(f"{name}: got a scalar, expected shape (..., M)")
        points = check_lengths(lengths, x.shape[:-1], x.device, limit=x.shape[-1] + 1)
    size = x.shape[-1]
    if points is None:
        return Bars(x, None, size, None)
    bars = (points - 1).clamp(min=0)
    mask = torch.arange(size, device=x.device) < bars.unsqueeze(-1)
    return Bars(torch.where(mask, x, torch.zeros_like(x)), mask, bars.to(x.dtype), points)


def _padded(deaths: Any, lengths: Lengths | None, name: str) -> tuple[Tensor, Tensor]:
    """Jagged deaths (B, m*) as padded deaths (B, M), and the numbers m + 1 of points (B,)."""
    if deaths.layout is not torch.jagged:
        raise TypeError(
            f"{name}: got a nested tensor of layout {deaths.layout}, expected torch.jagged; make "
            "it with torch.nested.nested_tensor(..., layout=torch.jagged)"
        )
    if deaths.dim() != 2 or deaths._ragged_idx != 1 or deaths._lengths is not None:
        raise ValueError(
            f"{name}: got a jagged tensor of shape {tuple(deaths.shape)}, expected one without "
            "holes of shape (B, m*), which is ragged in its second dimension; pass the deaths of "
            f"h0_persistence, or {name}.contiguous()"
        )
    if lengths is not None:
        raise ValueError(
            f"lengths: got {type(lengths).__name__} beside nested {name}, which have their own; "
            "leave them out"
        )
    values, offsets = as_tensor(deaths.values(), name), deaths.offsets()
    bars = offsets.diff()
    size = int(bars.max()) if len(bars) else 0
    # Each death is written to one place, so the gradient is read from there and nothing is summed.
    cloud = torch.repeat_interleave(bars, output_size=len(values))
    place = torch.arange(len(values), device=values.device) - offsets[cloud]
    return values.new_zeros(len(bars), size).index_put((cloud, place), values), bars + 1


def refuse_masked(x: Any, name: str) -> None:
    """Raise TypeError for a masked array, whose mask would be lost."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got a numpy.ma.MaskedArray, expected an array without a mask; pass what is "
            f"not masked, for example {name}.compressed(), or pad with `lengths`"
        )


def as_given(result: Tensor, deaths: Deaths) -> Deaths:
    """The result as a NumPy array if the deaths are one."""
    return result.numpy() if isinstance(deaths, np.ndarray) else result


def check_number(
    value: float, name: str, least: float = -math.inf, inclusive: bool = False
) -> None:
    """Raise TypeError for a complex number, and ValueError unless `value` is finite and above
    `least` (or equal to it, if `inclusive`)."""
    if isinstance(value, (complex, np.complexfloating)):
        raise TypeError(f"{name}: got the complex number {value}, expected a real number")
    above = value >= least if inclusive else value > least
    if not (above and value < math.inf):
        bound = "" if least == -math.inf else f" {'>=' if inclusive else 'above'} {least:g}"
        raise ValueError(f"{name}: got {value}, expected a finite number{bound}")


def mean_of_bars(x: Tensor, count: Tensor | int, keepdim: bool = False) -> Tensor:
    """Sum over the last dimension divided by the number of bars; 0 without bars."""
    total = x.sum(-1, keepdim=keepdim)
    if isinstance(count, Tensor):
        count = count.clamp(min=1)
        return total / (count.unsqueeze(-1) if keepdim else count)
    return total / max(count, 1)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else torch.where(mask, x, torch.zeros_like(x))


def divide(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 with derivative 0 where y is 0."""
    empty = y == 0
    return torch.where(empty, torch.zeros_like(x), x / torch.where(empty, torch.ones_like(y), y))


def power(x: Tensor, p: float) -> Tensor:
    """x**p for x >= 0, with derivative 0 at 0 for every p > 0."""
    if p == 1:
        return x
    if p == 2:
        return x.square()
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, torch.ones_like(x), x).pow(p))
