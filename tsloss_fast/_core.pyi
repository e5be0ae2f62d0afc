"""Native kernels. Tensors, or their DLPack capsules, are checked before they are read."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Array = Any  # a torch.Tensor, or what torch.utils.dlpack.to_dlpack makes of it

version: str  # that of the metadata it was built with
compiler: str
has_cuda: bool
cuda_architectures: str  # as CMake has them, with spaces between
cuda_toolkit: str  # "13.0.88"; "" without CUDA kernels

Finding = tuple[int, int, int, int]  # problem, cloud, i, j; see csrc/tsloss.h

def use_torch(**objects: Any) -> None: ...  # see csrc/bindings/torch.cpp
def is_plain(x: object) -> bool: ...
def everyday_h0(points: object, metric: str) -> Any: ...  # H0Persistence, True or None
def h0_forward(
    metric: int, points: Array, lengths: Array | None, offsets: Array | None, threads: int
) -> tuple[Tensor, Tensor, Finding | None]: ...
def h0_backward(
    metric: int,
    grad_deaths: Array,
    points: Tensor,
    offsets: Array | None,
    deaths: Array,
    edges: Array,
    threads: int,
) -> Tensor: ...
def h0_from_distances(
    distances: Array, lengths: Array | None, symmetry_tolerance: float, threads: int
) -> tuple[Tensor, Tensor, Finding | None]: ...
def check_lengths(lengths: Array, points: int) -> None: ...
def check_offsets(offsets: Array, rows: int, bars: int) -> None: ...
def fused_loss(
    metric: int,
    points: Array,
    lengths: Array | None,
    deaths: Array | None,
    edges: Array | None,
    connectivity: float,
    redundancy: float,
    rho: float,
    terms: bool,
    threads: int,
) -> tuple[FusedLoss, tuple[Tensor, ...], int, Finding | None]: ...

class FusedLoss:
    def gradient(
        self, points: Tensor, upstream: tuple[Array | None, ...], threads: int
    ) -> Tensor | None: ...

def single_linkage(edges: Array, merges: Array) -> None: ...
def pairwise_keys(metric: int, points: Array, keys: Array, threads: int) -> None: ...

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
    def set_forest(self, keys: Array, edges: Array) -> None: ...
    def load(self, slot: int, rows: Array, ids: Array) -> None: ...
    def near(self, a: int, b: int) -> int: ...
    def between(self, a: int, b: int) -> int: ...
    def result(self, keys: Array, edges: Array) -> None: ...
    @property
    def lost_digits(self) -> bool: ...

def load_shard(
    metric: int, points: Array, rows: Array, ids: Array, joined: Array, threads: int
) -> tuple[int, int, int, float, bool]: ...
def spanning_forest(n: int, keys: Array, edges: Array) -> int: ...
def merge_order(edges: Array, order: Array, rank: Array) -> None: ...
def exact_keys(metric: int, robust: bool, rows: Array, a: Array, b: Array, keys: Array) -> None: ...
def keys_in_range(dtype: int, metric: int, dim: int, keys: Array) -> bool: ...
def finish_tree(
    metric: int,
    robust: bool,
    keys: Array,
    edges: Array,
    deaths: Array,
    sorted_edges: Array,
) -> Finding | None: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def supported_isas() -> list[str]: ...
def filter_keeps(points: Array, factor: float, kept: Array) -> None: ...
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
def cuda_workspace(pass_: int, metric: int, values: Array) -> int: ...
def cuda_h0_forward(
    metric: int,
    points: Array,
    lengths: Array | None,
    deaths: Array,
    edges: Array,
    findings: Array,
    workspace: Array,
    stream: int,
) -> None: ...
def cuda_h0_backward(
    metric: int,
    grad_deaths: Array,
    points: Array,
    deaths: Array,
    edges: Array,
    grad_points: Array,
    workspace: Array,
    stream: int,
) -> None: ...
def cuda_h0_from_distances(
    distances: Array,
    lengths: Array | None,
    symmetry_tolerance: float,
    deaths: Array,
    edges: Array,
    findings: Array,
    workspace: Array,
    stream: int,
) -> None: ...
