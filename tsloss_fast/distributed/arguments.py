"""What each process gives to one call, and whether the processes agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._batch import HALF, METRICS, as_tensor, check_metric, shape_error
from .peers import Peers


def local_rows(points: Any, metric: Any, block_bytes: Any) -> tuple[Tensor, Exception | None]:
    """This process's rows, and what is wrong: an error must reach the other processes, or they
    would wait for this one."""
    try:
        x = as_tensor(points, "points")
        if x.dim() != 2:
            raise shape_error("points", x.shape, "(n, D), the rows of this process")
        check_metric(metric)
        if not isinstance(block_bytes, int) or block_bytes < 1:
            raise ValueError(f"block_bytes: expected a number above 0, got {block_bytes!r}")
        if x.is_neg() or x._is_zerotensor():
            x = x.clone()  # the memory of lazily negated numbers is not theirs, and zeros have none
    except (TypeError, ValueError) as error:
        return torch.empty((0, 0), device="cpu"), error
    return x, None


def local_shard(points: Any, group: Any) -> tuple[Tensor, Any]:
    """Errors are those of all processes, since what they come from is the same on all."""
    from torch.distributed.tensor import Replicate, Shard

    mesh, placements = points.device_mesh, points.placements
    sharded = [k for k, p in enumerate(placements) if p == Shard(0)]
    others = [p for k, p in enumerate(placements) if k not in sharded]
    if len(sharded) != 1 or any(p != Replicate() for p in others):
        raise ValueError(
            "points: expected a DTensor sharded on its rows over one dimension of the mesh, got "
            f"placements {placements}; call points.redistribute(...) first"
        )
    own = mesh.get_group(sharded[0])
    if group is not None and group is not own:
        raise ValueError("group: a DTensor brings its own; leave it out")
    return points.to_local(), own


def disagreement(peers: Peers, x: Tensor, metric: str, block_bytes: int) -> Exception | None:
    """The error of this process if the processes' arguments do not fit together."""
    types = [torch.float32, torch.float64, *HALF]
    own = [
        x.shape[1],
        types.index(x.dtype),
        METRICS[metric],
        block_bytes,
        x.device.type == "cuda",
        x.requires_grad and torch.is_grad_enabled(),
    ]
    said = peers.numbers("handshake", [0, *own])
    names = list(METRICS)

    def words(numbers: list[float]) -> list[str]:
        dim, dtype, number, size, on_device, gradient = (int(n) for n in numbers)
        return [
            f"{dim} columns",
            str(types[dtype]),
            f"metric {names[number]!r}",
            f"block_bytes {size}",
            "a CUDA device" if on_device else "the CPU",
            "a gradient" if gradient else "no gradient (requires_grad=False, or torch.no_grad())",
        ]

    for r, (status, *theirs) in enumerate(said):
        if status < 0:
            return None  # that process will say
        for mine, other in zip(
            words(said[0][1:]) if said[0][0] == 0 else [], words(theirs), strict=False
        ):
            if mine != other:
                return ValueError(
                    f"points: expected the same on every rank, got {mine} on rank "
                    f"{peers.ranks[0]} and {other} on rank {peers.ranks[r]}"
                )
    return None
