"""What the functionals and distances of barcodes have in common: arguments, padding, and
quotients and powers that are 0 at 0."""

from __future__ import annotations

import torch
from torch import Tensor

from .._inputs import Lengths, check_lengths


def require_deaths(deaths: Tensor, name: str = "deaths") -> None:
    if not isinstance(deaths, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor of deaths, got {type(deaths).__name__}")
    if not deaths.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {deaths.dtype}")
    if deaths.dim() < 1:
        raise ValueError(f"{name}: expected shape (..., M), got a scalar")


def finite_bars(
    deaths: Tensor, lengths: Lengths | None
) -> tuple[Tensor, Tensor | None, Tensor | int]:
    """Deaths with zeros in the padding, the mask of the bars (None: all), their number (...)."""
    require_deaths(deaths)
    size = deaths.shape[-1]
    sizes = check_lengths(lengths, deaths.shape[:-1], deaths.device, limit=size + 1)
    if sizes is None:
        return deaths, None, size
    bars = (sizes - 1).clamp(min=0)
    mask = torch.arange(size, device=deaths.device) < bars.unsqueeze(-1)
    return torch.where(mask, deaths, torch.zeros_like(deaths)), mask, bars.to(deaths.dtype)


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
