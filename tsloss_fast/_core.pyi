"""Native kernels. Tensors come as DLPack capsules, which are checked before they are read."""

from collections.abc import Callable
from typing import Any

Capsule = Any  # of torch.utils.dlpack.to_dlpack

version: str  # that of the metadata it was built with
compiler: str
has_cuda: bool
cuda_architectures: str  # as CMake has them, with spaces between
cuda_toolkit: str  # "13.0.88"; "" without CUDA kernels

Finding = tuple[int, int, int, int]  # problem, cloud, i, j; see csrc/tsloss.h

def h0_forward(
    metric: int,
    points: Capsule,
    lengths: Capsule | None,
    offsets: Capsule | None,
    deaths: Capsule,
    edges: Capsule,
    threads: int,
) -> Finding | None: ...
def h0_backward(
    metric: int,
    grad_deaths: Capsule,
    points: Capsule,
    offsets: Capsule | None,
    deaths: Capsule,
    edges: Capsule,
    grad_points: Capsule,
    threads: int,
) -> None: ...
def h0_from_distances(
    distances: Capsule,
    lengths: Capsule | None,
    symmetry_tolerance: float,
    deaths: Capsule,
    edges: Capsule,
    threads: int,
) -> Finding | None: ...
def check_lengths(lengths: Capsule, points: int) -> None: ...
def check_offsets(offsets: Capsule, rows: int, bars: int) -> None: ...
def scale_free_loss(
    deaths: Capsule,
    lengths: Capsule | None,
    connectivity: float,
    redundancy: float,
    rho: float,
    loss: Capsule,
    loss_grad: Capsule,
    spread: Capsule | None = None,
    spread_grad: Capsule | None = None,
    shortness: Capsule | None = None,
    shortness_grad: Capsule | None = None,
) -> int: ...
def single_linkage(edges: Capsule, merges: Capsule) -> None: ...
def pairwise_keys(metric: int, points: Capsule, keys: Capsule, threads: int) -> None: ...

class ShardFilter:
    """See csrc/cpu/shards/shards.h."""

    def __init__(
        self,
        dtype: int,
        metric: int,
        dim: int,
        largest: float,
        lattice: bool,
        robust: bool,
        threads: int,
    ) -> None: ...
    def set_forest(self, keys: Capsule, edges: Capsule) -> None: ...
    def load(self, slot: int, rows: Capsule, ids: Capsule) -> None: ...
    def near(self, a: int, b: int) -> int: ...
    def between(self, a: int, b: int) -> int: ...
    def result(self, keys: Capsule, edges: Capsule) -> None: ...
    @property
    def lost_digits(self) -> bool: ...

def load_shard(
    metric: int, points: Capsule, rows: Capsule, ids: Capsule, joined: Capsule, threads: int
) -> tuple[int, int, int, float, bool]: ...
def spanning_forest(n: int, keys: Capsule, edges: Capsule) -> int: ...
def merge_order(edges: Capsule, order: Capsule, rank: Capsule) -> None: ...
def exact_keys(
    metric: int, robust: bool, rows: Capsule, a: Capsule, b: Capsule, keys: Capsule
) -> None: ...
def keys_in_range(dtype: int, metric: int, dim: int, keys: Capsule) -> bool: ...
def finish_tree(
    metric: int,
    robust: bool,
    keys: Capsule,
    edges: Capsule,
    deaths: Capsule,
    sorted_edges: Capsule,
) -> Finding | None: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def supported_isas() -> list[str]: ...
def filter_keeps(points: Capsule, factor: float, kept: Capsule) -> None: ...
def set_progress(callback: Callable[[float], object] | None) -> None: ...
def set_overrides(
    path: int = 0,
    sample_one_in: int = 0,
    wave_one_in: int = 0,
    coded: int = -1,
    seed: int = 0,
    poll_milliseconds: int = 100,
) -> None: ...

# In builds with CUDA kernels alone (has_cuda).
def cuda_workspace(pass_: int, metric: int, values: Capsule) -> int: ...
def cuda_h0_forward(
    metric: int,
    points: Capsule,
    lengths: Capsule | None,
    deaths: Capsule,
    edges: Capsule,
    findings: Capsule,
    workspace: Capsule,
    stream: int,
) -> None: ...
def cuda_h0_backward(
    metric: int,
    grad_deaths: Capsule,
    points: Capsule,
    deaths: Capsule,
    edges: Capsule,
    grad_points: Capsule,
    workspace: Capsule,
    stream: int,
) -> None: ...
def cuda_h0_from_distances(
    distances: Capsule,
    lengths: Capsule | None,
    symmetry_tolerance: float,
    deaths: Capsule,
    edges: Capsule,
    findings: Capsule,
    workspace: Capsule,
    stream: int,
) -> None: ...
