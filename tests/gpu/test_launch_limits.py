"""The host executor refuses launches that a GPU of sm_90 refuses, and says what is wrong."""

from __future__ import annotations

import kernel_limits
import pytest
from cuda_host import HostKernels
from native_builds import HAVE_SOURCES

pytestmark = pytest.mark.skipif(not HAVE_SOURCES, reason="needs the source tree and g++")

ONE = (1, 1, 1)
# Launches that reach one limit each, or several.
ALLOWED = [
    ((2**31 - 1, 65535, 65535), (256, 1, 1), 232448, (256, 0, 0)),
    (ONE, (1, 1, 1), 0, (1024, 255, 49152)),
    (ONE, (8, 8, 16), 0, (1024, 64, 0)),
    (ONE, (512, 1, 1), 0, (512, 128, 0)),
    (ONE, (352, 1, 1), 232448 - 32, (352, 168, 32)),
]


@pytest.mark.parametrize(("grid", "block", "shared", "limits"), ALLOWED)
def test_a_launch_at_its_limits_is_allowed(
    source_kernels: HostKernels,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    shared: int,
    limits: tuple[int, int, int],
) -> None:
    source_kernels.check_launch(grid, block, shared, limits)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "limits", "message"),
    [
        ((0, 1, 1), ONE, 0, (1, 0, 0), r"a grid of \(0, 1, 1\) blocks; .* 1 to 2147483647"),
        ((1, 0, 1), ONE, 0, (1, 0, 0), r"a grid of \(1, 0, 1\) blocks"),
        ((1, 1, 0), ONE, 0, (1, 0, 0), r"a grid of \(1, 1, 0\) blocks"),
        ((2**31, 1, 1), ONE, 0, (1, 0, 0), r"a grid of \(2147483648, 1, 1\) blocks"),
        ((1, 65536, 1), ONE, 0, (1, 0, 0), r"\(1, 65536, 1\) blocks; .* 1 to 65535 along y and z"),
        ((1, 1, 65536), ONE, 0, (1, 0, 0), r"\(1, 1, 65536\) blocks; .* 1 to 65535 along y and z"),
        (ONE, (0, 1, 1), 0, (1024, 0, 0), r"\(0, 1, 1\) threads, 0 in all; .* 1 to 1024 threads"),
        (ONE, (1025, 1, 1), 0, (2048, 0, 0), r"1025 in all; a block has 1 to 1024 threads"),
        (ONE, (8, 8, 17), 0, (2048, 0, 0), r"1088 in all; a block has 1 to 1024 threads"),
        (ONE, (2**16, 2**16, 1), 0, (2048, 0, 0), r"4294967296 in all"),
        (ONE, (257, 1, 1), 0, (256, 0, 0), r"257 threads; the launch bounds .* are 256 threads"),
        (ONE, (1024, 1, 1), 0, (1024, 65, 0), r"65 registers .* take 73728 .* has 65536 registers"),
        # 12 warps: registers are given by 256 to a warp, and warps by 4 to the schedulers.
        (ONE, (353, 1, 1), 0, (512, 169, 0), r"12 warps with 169 registers a thread.* 67584"),
        (ONE, (416, 1, 1), 0, (512, 129, 0), r"13 warps with 129 registers a thread.* 69632"),
        (ONE, ONE, 232449, (1, 0, 0), r"232449 bytes of dynamic .* at most 232448 bytes"),
        (ONE, ONE, 232448, (1, 0, 16), r"and 16 bytes of static .* at most 232448 bytes"),
        (ONE, ONE, 0, (1, 0, 49153), r"49153 bytes of static .* may declare 49152 bytes"),
        (ONE, ONE, -1, (1, 0, 0), r"-1 bytes of dynamic .*; a size cannot be negative"),
    ],
)
def test_a_launch_beyond_a_limit_is_refused(
    source_kernels: HostKernels,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    shared: int,
    limits: tuple[int, int, int],
    message: str,
) -> None:
    with pytest.raises(RuntimeError, match=f"launch refused: .*{message}"):
        source_kernels.check_launch(grid, block, shared, limits)


def test_every_launch_of_the_kernels_is_checked(kernels: HostKernels) -> None:
    kernels.launch_idle_kernel("clear_facts", ONE, (256, 1, 1), 232448)
    for grid, block, shared, message in (
        (ONE, (257, 1, 1), 0, "257 threads; the launch bounds of this kernel are 256"),
        (ONE, (256, 1, 1), 232449, "232449 bytes of dynamic"),
        (ONE, (256, 1, 1), -4, "a size cannot be negative"),
        ((1, 65536, 1), (256, 1, 1), 0, "65536"),
    ):
        with pytest.raises(RuntimeError, match=f"kernel clear_facts: launch refused: .*{message}"):
            kernels.launch_idle_kernel("clear_facts", grid, block, shared)


def test_the_limits_are_those_of_the_kernel_that_is_named(source_kernels: HostKernels) -> None:
    source_kernels.launch_idle_kernel("small_cloud", ONE, (352, 1, 1))
    with pytest.raises(RuntimeError, match="353 threads; the launch bounds of this kernel are 352"):
        source_kernels.launch_idle_kernel("small_cloud", ONE, (353, 1, 1))
    with pytest.raises(RuntimeError, match="34816 bytes of static"):
        source_kernels.launch_idle_kernel("distance_tiles", ONE, ONE, 232448 - 34815)


def test_a_kernel_without_a_row_in_the_table_is_not_launched(kernels: HostKernels) -> None:
    with pytest.raises(RuntimeError, match=r"kernel unheard_of: its limits are unknown: .*TSLOSS_"):
        kernels.launch_idle_kernel("unheard_of", ONE, ONE)


def test_every_kernel_has_launch_bounds_and_a_row_in_the_table() -> None:
    bounds = kernel_limits.launch_bounds()
    assert set(bounds) == set(kernel_limits.compiled())
    assert bounds["cloud_tree"] == "kTreeThreads"
    assert kernel_limits.compiled()["small_cloud"] > (100, 0)
