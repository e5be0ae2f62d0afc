"""A cloud in shards, and whether the result is that of one process."""

from __future__ import annotations

import numpy as np
import torch

import tsloss_fast


def weights(bars: int) -> torch.Tensor:
    return torch.linspace(0.5, 1.5, bars)


def whole(points: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = torch.from_numpy(points).clone().requires_grad_()
    h0 = tsloss_fast.h0_persistence(x, metric)
    (gradient,) = torch.autograd.grad((h0.deaths * weights(len(h0.deaths))).sum(), x)
    return h0.deaths.detach().numpy(), h0.edges.numpy(), gradient.numpy()
