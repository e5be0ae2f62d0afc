"""A catalogue of named, seeded point clouds: ordinary ones, and every ugly kind we know of.

Each family is a generator of ``Cloud``s for one dtype; ``catalogue(dtype)`` chains all of them.
A cloud is ``exact`` when its distances keep their order and their ties under rounding (small
integer coordinates, perhaps scaled by a power of two): there the tree is unique and can be
compared edge for edge. Elsewhere two lengths may tie in one precision and not in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

FLOATS = (np.float32, np.float64)
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 25, 26, 31, 32, 33, 63, 64, 65)
DIMENSIONS = (1, 2, 15, 16, 17, 63, 64, 65)


@dataclass(frozen=True)
class Cloud:
    """``points`` is (N, D), float32 or float64; ``name`` says how it was made."""

    name: str
    points: NDArray[np.floating]
    exact: bool = False


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def gaussian(n: int, d: int, seed: int = 0, dtype: type = np.float32) -> NDArray[np.floating]:
    return rng(1_000_003 * seed + 1009 * n + d).standard_normal((n, d)).astype(dtype)


def crowded(n: int, d: int, seed: int = 0) -> NDArray[np.float64]:
    """Half the points are close to others, so that the redundancy of the cloud is positive."""
    x = gaussian(n, d, seed, np.float64)
    x[n // 2 :] = x[: n - n // 2] + 0.1 * x[n // 2 :]
    return x


def clusters(count: int, n: int, d: int, seed: int, width: float) -> NDArray[np.float64]:
    """`count` clusters of standard deviation `width`, their centres a thousand apart."""
    r = rng(seed)
    centres = 1e3 * r.standard_normal((count, d))
    return centres[np.arange(n) % count] + width * r.standard_normal((n, d))


def grid(side: int, d: int, seed: int | None = None) -> NDArray[np.float64]:
    """The integer grid {0..side-1}^d: almost every distance is tied. `seed` shuffles the rows."""
    points = np.stack(np.meshgrid(*[np.arange(side)] * d, indexing="ij"), -1).reshape(-1, d)
    if seed is not None:
        points = rng(seed).permutation(points)
    return points.astype(np.float64)


def copies(distinct: int, times: int, d: int, seed: int = 0) -> NDArray[np.float64]:
    """`times` copies of each of `distinct` integer points, interleaved."""
    r = rng(seed)
    candidates = np.unique(r.integers(0, 7, (8 * distinct, d)), axis=0)
    points = r.permutation(candidates)[:distinct]
    assert len(points) == distinct
    return np.tile(points, (times, 1)).astype(np.float64)


def star(rays: int, seed: int | None = None) -> NDArray[np.float64]:
    """A hub: the origin is the nearest neighbour of every other point, which are orthogonal.

    The rays have equal length without a seed (all deaths tie), distinct lengths with one.
    """
    lengths = np.ones(rays) if seed is None else rng(seed).uniform(1.0, 1.3, rays)
    points = np.concatenate([np.zeros((1, rays)), np.diag(lengths)])
    return points if seed is None else rng(seed).permutation(points)


def ladder(low: int, high: int, step: int) -> NDArray[np.float64]:
    """Powers of ten on a line: every death is of its own order of magnitude."""
    return np.array([[10.0**k] for k in range(low, high + 1, step)])


def sizes(dtype: type) -> Iterator[Cloud]:
    for n in SIZES:
        for d in DIMENSIONS:
            yield Cloud(f"gaussian {n}x{d}", gaussian(n, d, dtype=dtype))
        yield Cloud(f"{n}x0", np.zeros((n, 0), dtype), exact=True)


def spread(dtype: type) -> Iterator[Cloud]:
    for n, d in ((5, 3), (25, 768), (26, 768), (40, 33), (64, 8), (100, 4)):
        r = rng(n * d)
        yield Cloud(f"uniform {n}x{d}", r.random((n, d)).astype(dtype))
        for offset in (1e3, 1e6):
            points = offset + r.standard_normal((n, d))
            yield Cloud(f"offset {offset:g} {n}x{d}", points.astype(dtype))
        tight = 1e3 + 1e-4 * r.standard_normal((n, d))
        yield Cloud(f"tight and far {n}x{d}", tight.astype(dtype))
        cauchy = np.clip(r.standard_t(1, (n, d)), -1e12, 1e12)
        yield Cloud(f"heavy tails {n}x{d}", cauchy.astype(dtype))
        heavier = np.sign(cauchy) * cauchy**2
        yield Cloud(f"heavier tails {n}x{d}", heavier.astype(dtype))
        direction = r.standard_normal(d)
        yield Cloud(f"line {n}x{d}", np.outer(r.standard_normal(n), direction).astype(dtype))
        low_rank = r.standard_normal((n, 2)) @ r.standard_normal((2, d))
        yield Cloud(f"rank two {n}x{d}", low_rank.astype(dtype))


def clustered(dtype: type) -> Iterator[Cloud]:
    for n, d in ((7, 2), (25, 768), (26, 768), (60, 16), (101, 5)):
        for count in (2, 5):
            for width in (1e-4, 1e-2):
                points = clusters(count, n, d, seed=n + count, width=width)
                yield Cloud(f"{count} clusters {width:g} {n}x{d}", points.astype(dtype))


def ties(dtype: type) -> Iterator[Cloud]:
    shapes = ((30, 1), (7, 2), (10, 2), (4, 3), (3, 4), (2, 6))
    for side, d in shapes:
        for seed in (None, 1, 2):
            yield Cloud(f"grid {side}^{d} {seed}", grid(side, d, seed).astype(dtype), exact=True)
    for exponent in (-120, -60, 60, 100):
        # Squares leave float32's range in both directions, the lengths do not.
        points = np.ldexp(grid(5, 2, seed=3), exponent).astype(dtype)
        yield Cloud(f"grid 5^2 times 2^{exponent}", points, exact=True)
    for n, d in ((40, 1), (40, 33), (40, 768), (2, 5), (65, 16)):
        same = np.broadcast_to(rng(d).standard_normal(d), (n, d)).astype(dtype)
        yield Cloud(f"{n} identical rows in {d}", same, exact=True)
    for distinct, times, d in ((10, 4, 2), (10, 10, 5), (3, 13, 33)):
        points = copies(distinct, times, d).astype(dtype)
        yield Cloud(f"{times} copies of {distinct} in {d}", points, exact=True)
    for n, d in ((30, 2), (64, 3), (65, 16), (90, 4)):
        points = rng(n).integers(-3, 4, (n, d)).astype(dtype)
        yield Cloud(f"integers {n}x{d}", points, exact=True)


def hubs(dtype: type) -> Iterator[Cloud]:
    for rays in (3, 16, 63, 64, 65, 90):
        yield Cloud(f"star {rays}", star(rays).astype(dtype), exact=True)
        yield Cloud(f"uneven star {rays}", star(rays, seed=rays).astype(dtype))


def nearly_coincident(dtype: type) -> Iterator[Cloud]:
    for n, d in ((9, 1), (26, 3), (40, 33), (64, 16)):
        steps = rng(n).integers(0, 4, (n, d)).astype(dtype) * np.finfo(dtype).eps
        for centre in (1.0, 1024.0):
            points = (dtype(centre) * (dtype(1) + steps)).astype(dtype)
            yield Cloud(f"last bits around {centre:g} {n}x{d}", points, exact=True)


def scales(dtype: type) -> Iterator[Cloud]:
    tiny = {np.float32: (1e-44, 1e-40, 1e-38, 1e-30, 1e-23, 1e-19)}.get(
        dtype, (1e-322, 1e-310, 1e-307, 1e-300, 1e-200, 1e-160)
    )
    huge = {np.float32: (1e15, 1e19, 1e23, 1e30, 1e37)}.get(
        dtype, (1e100, 1e150, 1e160, 1e200, 1e300)
    )
    for scale in tiny + huge:
        for n, d in ((6, 2), (17, 16), (33, 40)):
            points = gaussian(n, d, seed=3, dtype=np.float64) * scale
            yield Cloud(f"scale {scale:g} {n}x{d}", points.astype(dtype))


def mixed_scales(dtype: type) -> Iterator[Cloud]:
    small, large = (1e-30, 1e30) if dtype is np.float32 else (1e-200, 1e200)
    low, high = (-44, 37) if dtype is np.float32 else (-320, 300)
    for d in (1, 3, 16, 40):
        pair = np.zeros((2, d))
        pair[1, 0] = small
        far = large * gaussian(6, d, seed=5, dtype=np.float64)
        yield Cloud(f"a close pair beside far points, {d}", np.vstack([pair, far]).astype(dtype))
        tight = small * gaussian(20, d, seed=6, dtype=np.float64)
        points = rng(d).permutation(np.vstack([tight, far]))
        yield Cloud(f"a tight cluster beside far points, {d}", points.astype(dtype))
        # The same in one vector: a coordinate that decides, and others that vanish beside it.
        points = gaussian(12, d, seed=7, dtype=np.float64) * np.geomspace(large, small, d)
        yield Cloud(f"anisotropic, {d}", points.astype(dtype))
    for step in (1, 3, 7):
        yield Cloud(f"ladder of step {step}", ladder(low, high, step).astype(dtype))
        shuffled = rng(step).permutation(ladder(low, high, step))
        yield Cloud(f"shuffled ladder of step {step}", shuffled.astype(dtype))


FAMILIES: dict[str, Callable[[type], Iterator[Cloud]]] = {
    f.__name__: f
    for f in (sizes, spread, clustered, ties, hubs, nearly_coincident, scales, mixed_scales)
}


# Every hub stands at the origin, and no angle to a zero vector is defined.
WITHOUT_ANGLES = {("hubs", "cosine")}


def catalogue(dtype: type) -> Iterator[Cloud]:
    for family in FAMILIES.values():
        yield from family(dtype)


def layouts(points: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same (N, D) values in every memory layout a user may hand over."""
    n, d = points.shape
    wide = points.new_full((n, d + 1000), float("nan"))
    wide[:, 5 : 5 + d] = points
    stepped = points.new_full((2 * n, 3 * d), float("nan"))
    stepped[::2, ::3] = points
    shifted = points.new_full((n * d + 1,), float("nan"))
    shifted[1:] = points.reshape(-1)
    return {
        "contiguous": points.contiguous(),
        "transposed": points.t().contiguous().t(),
        "columns of a wide matrix": wide[:, 5 : 5 + d],
        "every second row and third column": stepped[::2, ::3],
        "unaligned by one element": shifted[1:].view(n, d),
    }


def huge_stride(points: torch.Tensor) -> torch.Tensor:
    """Rows more than 2^31 elements apart; only the touched pages cost memory."""
    n, d = points.shape
    stride = 2**31 + 64
    storage = torch.empty((n - 1) * stride + d, dtype=points.dtype)
    view = storage.as_strided((n, d), (stride, 1))
    view.copy_(points)
    return view


def dissimilarities(n: int, seed: int, dtype: type, levels: int | None = None) -> NDArray:
    """A symmetric matrix with a zero diagonal that need not come from points; `levels` makes ties
    and zeros."""
    r = np.random.default_rng(seed)
    values = r.random((n, n)) if levels is None else r.integers(0, levels, (n, n))
    upper = np.triu(values, 1).astype(dtype)
    return upper + upper.T
