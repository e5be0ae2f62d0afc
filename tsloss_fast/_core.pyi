"""Native kernels. Private: addresses and sizes are not checked here, only in ``_ops.py``."""

from collections.abc import Callable

version: str  # that of the metadata it was built with
compiler: str
has_cuda: bool
cuda_architectures: str  # as CMake has them, with spaces between
cuda_toolkit: str  # "13.0.88"; "" without CUDA kernels

def h0_forward(
    dtype: int,
    metric: int,
    points: int,
    lengths: int,
    deaths: int,
    edges: int,
    batch: int,
    n: int,
    dim: int,
    threads: int,
    offsets: int = 0,
    bar_offsets: int = 0,
) -> tuple[int, int, int, int]: ...
def h0_backward(
    dtype: int,
    metric: int,
    grad_deaths: int,
    points: int,
    deaths: int,
    edges: int,
    grad_points: int,
    batch: int,
    n: int,
    dim: int,
    threads: int,
    offsets: int = 0,
    bar_offsets: int = 0,
) -> None: ...
def h0_from_distances(
    dtype: int,
    distances: int,
    lengths: int,
    symmetry_tolerance: float,
    deaths: int,
    edges: int,
    batch: int,
    n: int,
    threads: int,
) -> tuple[int, int, int, int]: ...
def scale_free_loss(
    dtype: int,
    deaths: int,
    lengths: int,
    connectivity: float,
    redundancy: float,
    rho: float,
    loss: int,
    grad: int,
    batch: int,
    n: int,
) -> int: ...
def single_linkage(edges: int, merges: int, batch: int, n: int) -> None: ...
def pairwise_keys(
    dtype: int, metric: int, points: int, keys: int, batch: int, n: int, dim: int, threads: int
) -> None: ...

class ShardFilter:
    """See csrc/cpu/shards.h."""

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
    def set_forest(self, n: int, keys: int, edges: int) -> None: ...
    def load(self, slot: int, rows: int, ids: int, count: int) -> None: ...
    def near(self, a: int, b: int) -> int: ...
    def between(self, a: int, b: int) -> int: ...
    def result(self, keys: int, edges: int) -> None: ...
    @property
    def lost_digits(self) -> bool: ...

def load_shard(
    dtype: int,
    metric: int,
    points: int,
    n: int,
    dim: int,
    rows: int,
    ids: int,
    joined: int,
    threads: int,
) -> tuple[int, int, int, float, bool]: ...
def spanning_forest(n: int, count: int, keys: int, edges: int) -> int: ...
def merge_order(n: int, edges: int, order: int, rank: int) -> None: ...
def exact_keys(
    dtype: int,
    metric: int,
    robust: bool,
    rows: int,
    stride: int,
    count: int,
    a: int,
    b: int,
    keys: int,
) -> None: ...
def keys_in_range(dtype: int, metric: int, dim: int, count: int, keys: int) -> bool: ...
def finish_tree(
    dtype: int,
    metric: int,
    robust: bool,
    count: int,
    keys: int,
    edges: int,
    deaths: int,
    sorted_edges: int,
) -> tuple[int, int, int, int]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def supported_isas() -> list[str]: ...
def filter_keeps(dtype: int, points: int, factor: float, kept: int, n: int, dim: int) -> None: ...
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
def cuda_workspace(
    pass_: int, number: int, metric: int, batch: int, n: int, dim: int, device: int
) -> int: ...
def cuda_h0_forward(
    number: int,
    metric: int,
    points: int,
    lengths: int,
    deaths: int,
    edges: int,
    findings: int,
    workspace: int,
    batch: int,
    n: int,
    dim: int,
    device: int,
    stream: int,
) -> None: ...
def cuda_h0_backward(
    number: int,
    metric: int,
    grad_deaths: int,
    points: int,
    deaths: int,
    edges: int,
    grad_points: int,
    workspace: int,
    batch: int,
    n: int,
    dim: int,
    device: int,
    stream: int,
) -> None: ...
def cuda_h0_from_distances(
    number: int,
    distances: int,
    lengths: int,
    symmetry_tolerance: float,
    deaths: int,
    edges: int,
    findings: int,
    workspace: int,
    batch: int,
    n: int,
    device: int,
    stream: int,
) -> None: ...
