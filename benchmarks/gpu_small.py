"""All CUDA kernels once, on clouds small enough for compute-sanitizer; see gpu_check.sh.

Run as ``python -m tsloss_fast.benchmarks.gpu_small [DEVICE]``. No kernel but ours writes what ours
read, so that a sanitizer may look at ours alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from tsloss_fast import h0_persistence, h0_persistence_from_distances

# Batch, points, dimension. Clouds that are read once by the block of their tree (more than a device
# has multiprocessors), by other blocks in slices, and in so many that a kernel adds them; keys of
# others in shared and in global memory; a forest.
SIZES = (
    (2, 33, 40),
    (200, 9, 131),
    (200, 9, 136),
    (2, 20, 600),
    (2, 99, 2048),
    (2, 129, 5),
    (2, 260, 3),
    (2, 600, 3),
)
ABOVE_STORED = 8300  # keys that nobody stores


def _same(got: Tensor, wanted: Tensor, what: object) -> None:
    if not torch.equal(got.detach().cpu(), wanted):
        raise AssertionError(f"{what}: not what the CPU core gives")


def main(argv: Sequence[str] | None = None) -> int:
    """Raises AssertionError if a result is not that of the CPU core."""
    device = (*(sys.argv[1:] if argv is None else argv), "cuda")[0]
    generator = torch.Generator().manual_seed(0)
    count = 0
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for metric in ("euclidean", "sqeuclidean", "cosine", "manhattan"):
            for batch, n, dim in SIZES:
                points = torch.randn(batch, n, dim, generator=generator).to(dtype)
                lengths = torch.tensor([n, n // 2] * (batch // 2)) if count % 3 == 0 else None
                wanted = h0_persistence(points, metric, lengths)
                given = torch.ones_like(wanted.deaths).to(device)
                x = points.to(device).requires_grad_()
                there = None if lengths is None else lengths.to(device)
                deaths, edges = h0_persistence(x, metric, there)
                (grad,) = torch.autograd.grad(deaths, x, given)
                what = dtype, metric, n, dim
                _same(deaths, wanted.deaths, what)
                _same(edges, wanted.edges, what)
                if not grad.cpu().isfinite().all():
                    raise AssertionError(f"{what}: the gradient is not finite")
                count += 1
    x = torch.randn(ABOVE_STORED, 2, generator=generator)
    _same(h0_persistence(x.to(device)).edges, h0_persistence(x).edges, tuple(x.shape))
    for n in (70, 600):
        x = torch.randn(n, 3, generator=generator)
        d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        wanted = h0_persistence_from_distances(d)
        _same(h0_persistence_from_distances(d.to(device)).edges, wanted.edges, f"matrix of {n}")
    print(f"{count} batches, a large cloud and two matrices: what the CPU core gives")
    return 0


if __name__ == "__main__":
    sys.exit(main())
