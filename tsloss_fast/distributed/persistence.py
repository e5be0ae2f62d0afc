"""0-dimensional persistence of one cloud whose points are shared out over processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _autograd, _core
from .._batch import HALF, METRICS, raise_finding
from ..functional import H0Persistence
from .arguments import disagreement, local_rows, local_shard
from .cloud import Cloud, Edges, MemoryShard, Shard, row_dtype, rows_of_block
from .gradient import Owners, route_gradient
from .peers import Peers
from .tree import components, spanning_tree
from .watch import Watch

_CALLER = "tsloss_fast.distributed.h0_persistence"
_BLOCK_BYTES = 64 << 20


def h0_persistence(
    points: Tensor,
    group: Any = None,
    metric: str = "euclidean",
    *,
    block_bytes: int = _BLOCK_BYTES,
) -> H0Persistence:
    """0-dimensional Vietoris-Rips persistence of one cloud whose rows are sharded over processes.

    Called by every process of the group with its own rows. The cloud is all rows in the order of
    the ranks; deaths and edges are those that `tsloss_fast.h0_persistence` finds for it in one
    process, to the last bit, and every process gets them.

    Args:
        points: (n, D), n of this process (0 is allowed, and they may differ), the same D and type
            everywhere; types as `tsloss_fast.h0_persistence`. Or a `DTensor` (N, D) that is sharded
            on its rows over one dimension of its mesh, whose processes are then the group.
        group: a process group of torch.distributed; default: all processes. Messages go by its
            backend: gloo, or NCCL for points on CUDA devices.
        metric: "euclidean", "sqeuclidean", "cosine" (1 - cos) or "manhattan".
        block_bytes: what travels at a time (by default 64 MiB), > 0, the same everywhere. A process
            holds, beside its rows, up to three times as much again (a copy, codes; in backward the
            gradient in double), a few blocks and O(N) numbers.

    Returns:
        deaths (N-1,) ascending and edges (N-1, 2) int64 with numbers of the whole cloud, on the
        device of `points`, the same on every process; a gradient flows to the rows of each.

    Every process has to make the same use of the deaths, as it does where all compute the same
    loss: backward() sends rows between them, and each takes the gradient for its own rows from the
    loss it computed. The gradient can be taken once: second derivatives are not supported.

    Raises:
        TypeError, ValueError: as `tsloss_fast.h0_persistence`, on every process, with the number of
            the bad point in the whole cloud.
        PeerError: on the other processes where one could not take part (wrong arguments, no
            memory), died, or did not answer within the timeout of the group, and on a process that
            comes after the others have given up; it names the step, and the rank where it can be
            told. No process has a result. Over NCCL, torch itself ends processes whose messages are
            late, and says which ones.
        RuntimeError: torch.distributed is not initialised, an earlier call in the group did not
            end, or a second derivative is taken.

    With P processes: O(N² D / P) time for each; about N D / 2 numbers sent by each for P > 2, and
    O(N log P). Source: csrc/README.md; the ring is that of systolic all-pairs algorithms.

    Example:
        A group of one process; under torchrun the same call, with each process's own rows, finds
        the same::

            >>> import torch.distributed as dist
            >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            >>> rows = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)
            >>> deaths, edges = h0_persistence(rows)
            >>> deaths.tolist(), edges.tolist()
            ([1.0, 2.0], [[0, 1], [1, 2]])
            >>> deaths[1].backward()
            >>> rows.grad.flatten().tolist()
            [0.0, -1.0, 1.0]
            >>> dist.destroy_process_group()
    """
    if hasattr(points, "placements"):
        points, group = local_shard(points, group)
    peers = Peers(group, _CALLER)
    with peers.call():
        local, error = local_rows(points, metric, block_bytes)
        if error is None:
            error = disagreement(peers, local, metric, block_bytes)
        else:
            peers.numbers("handshake", [-1] * 7)
        peers.agree(error)
        peers.use(local.device)
        x = local.float() if local.dtype in HALF else local
        arguments = (None, None, None, metric, 0.0, True)  # as those of a batch
        return H0Persistence(*_autograd.H0.apply(x, arguments, _Processes(peers, block_bytes)))  # type: ignore[no-untyped-call]


class _Processes:
    """The computation of one cloud whose rows are shared out, for the autograd Function."""

    ignores_deaths = True  # in the gradient, so that they may be changed in place

    def __init__(self, peers: Peers, block_bytes: int) -> None:
        self._peers, self._block_bytes = peers, block_bytes

    def h0(self, points: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        metric, peers, dtype = arguments[3], self._peers, points.dtype
        starts = [0]
        for (n,) in peers.numbers("handshake", [points.shape[0]]):
            starts.append(starts[-1] + int(n))
        owners, dim = Owners(starts), points.shape[1]
        self._owners = owners
        rows = rows_of_block(max(owners.sizes), dim, dtype, metric, self._block_bytes)

        def load() -> MemoryShard:
            return MemoryShard(points.detach().cpu(), metric, owners.starts[peers.rank], rows)

        with torch.autocast(points.device.type, enabled=False):
            deaths, edges = solve(load, owners, dim, dtype, metric, peers, points.device)
        return deaths.to(points.device), edges.to(points.device)

    def h0_backward(
        self, grad: Tensor, points: Tensor, deaths: Tensor, edges: Tensor, _: Any, metric: str
    ) -> Tensor:
        rest = (metric, self._owners, self._peers, self._block_bytes)
        with self._peers.call(), torch.no_grad():
            routed = route_gradient(grad, points, edges, *rest)
        if torch.is_grad_enabled():  # create_graph=True
            routed = _Once.apply(routed, points, grad)  # type: ignore[no-untyped-call]
        return routed


class _Once(torch.autograd.Function):
    """A gradient that depends on points and on what came from above, and refuses its own: torch's
    once_differentiable would let it count as zero where only the points take part."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{_CALLER}: second derivatives are not supported")


def solve(
    load: Callable[[], Shard],
    owners: Owners,
    dim: int,
    dtype: torch.dtype,
    metric: str,
    peers: Peers,
    device: torch.device,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """Deaths and edges on the CPU of the cloud whose points `load` brings."""
    total = owners.starts[-1]
    error: Exception | None = None
    shard: Any = None
    try:
        if total >= 2**31:
            raise ValueError(f"points: expected fewer than 2**31 in all, got {total}")
        shard = load()
    except (ValueError, MemoryError, RuntimeError, OSError) as e:
        error = e
    peers.agree(error)
    _check(peers, shard, dtype)
    facts = peers.numbers(
        "handshake", [shard.largest, float(shard.lattice), float(len(shard.sizes))]
    )
    most = max(int(f[2]) for f in facts)
    sizes = peers.numbers("handshake", [*shard.sizes, *[0] * (most - len(shard.sizes))])
    cloud = Cloud(
        total,
        dim,
        row_dtype(dtype, metric),
        metric,
        max(f[0] for f in facts),
        all(f[1] for f in facts),
        [[int(n) for n in own[: int(f[2])]] for own, f in zip(sizes, facts, strict=True)],
    )
    tree = spanning_tree(cloud, shard, peers, device, watch or Watch())
    edges = with_stars(tree.edges, total)
    bars = len(edges)
    deaths = torch.empty(bars, dtype=dtype, device="cpu")
    ends = torch.empty_like(edges.ends)
    arrays = (edges.keys, edges.ends, deaths, ends)
    finding = _core.finish_tree(METRICS[metric], tree.robust, *arrays)
    if finding is not None:
        _raise(peers, finding, dtype)
    return deaths, ends


def _raise(peers: Peers, finding: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    try:
        raise_finding(finding, 1, "points", dtype, options=())
    except ValueError as error:
        peers.together(error)


def _check(peers: Peers, shard: Shard, dtype: torch.dtype) -> None:
    """Raises on every process for the first bad point of the cloud."""
    for problem, bad in peers.numbers("check of the points", [shard.problem, shard.bad]):
        if problem:
            _raise(peers, (int(problem), 0, int(bad), -1), dtype)


def with_stars(tree: Edges, points: int) -> Edges:
    """Coincident points joined to the first of them, as the order of ties demands: the search knows
    only one copy in each process."""
    zero = tree.keys == 0
    label = components(Edges(tree.keys[zero], tree.ends[zero]), points)
    copies = torch.nonzero(label != torch.arange(points, device="cpu")).squeeze(1)
    stars = Edges(
        torch.zeros(len(copies), dtype=torch.float64, device="cpu"),
        torch.stack([label[copies], copies], 1),
    )
    return Edges.join([Edges(tree.keys[~zero], tree.ends[~zero]), stars])
