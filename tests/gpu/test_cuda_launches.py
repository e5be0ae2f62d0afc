"""How csrc/cuda/launch.cu asks for shared memory, over a fake CUDA runtime that runs no kernel."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import pytest
from native_builds import FAKE_CUDA, HAVE_SOURCES, build
from source_tree import ROOT

pytestmark = pytest.mark.skipif(not HAVE_SOURCES, reason="needs the source tree and g++")

# Dynamic shared memory that a block of an H100 can have, when its kernel declares 48 bytes besides.
MOST = (227 << 10) - 48
SMALL, LARGE = 20, 220  # points whose trees need little, and more than 48 KiB of, shared memory
_devices = itertools.count(1)


class Launches:
    """The calls of one device, which no other test has used."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        for name in ("forward", "all_calls"):
            getattr(self.library, name).restype = ctypes.c_char_p
        self.device = next(_devices)
        self.library.forget_calls()

    def forward(self, points: int, device: int | None = None) -> None:
        failure = self.library.forward(
            self.device if device is None else device, ctypes.c_int64(points)
        )
        if failure is not None:
            raise RuntimeError(failure.decode())

    @property
    def calls(self) -> list[tuple[str, int, int]]:
        """The kind of each call, its kernel, and bytes of dynamic shared memory."""
        lines = self.library.all_calls().decode().splitlines()
        return [(what, int(kernel), int(size)) for what, kernel, size in map(str.split, lines)]


@pytest.fixture
def launches(build_folder: Path) -> Launches:
    source = ROOT / "tests/native/launch_calls.cpp"
    flags = ["-O1", "-fPIC", *FAKE_CUDA]
    return Launches(build(build_folder, "launch_calls.so", source, flags, link=["-shared"]))


def test_a_kernel_is_allowed_the_most_once_and_before_its_first_launch(launches: Launches) -> None:
    for points in (LARGE, SMALL, LARGE, 110, 330, LARGE):
        launches.forward(points)
    allowed: set[int] = set()
    for what, kernel, size in launches.calls:
        if what == "allow":
            assert size == MOST
            assert kernel not in allowed
            allowed.add(kernel)
        else:
            assert size == 0 or kernel in allowed
    used = {kernel for what, kernel, size in launches.calls if what == "launch" and size > 0}
    assert used == allowed
    assert len(used) >= 2


@pytest.mark.parametrize("first", [LARGE, SMALL])
def test_another_thread_cannot_take_shared_memory_away(launches: Launches, first: int) -> None:
    launches.forward(first)
    launches.library.intrude(launches.device, ctypes.c_int64(110))
    launches.forward(LARGE)


def test_a_graph_of_a_large_and_then_a_small_cloud_can_be_replayed(launches: Launches) -> None:
    for points in (LARGE, 110, SMALL):
        launches.forward(points)
    assert any(size > 48 << 10 for what, _, size in launches.calls if what == "launch")
    assert launches.library.not_replayable() == 0


def test_every_size_of_cloud_gets_its_shared_memory(launches: Launches) -> None:
    """Static and dynamic shared memory together have 48 KiB without an allowance."""
    for points in range(1, 513):
        launches.forward(points)
    sizes = {size for what, _, size in launches.calls if what == "launch"}
    assert max(sizes) > 200 << 10


def test_each_device_has_its_own_allowance(launches: Launches) -> None:
    other = next(_devices)
    launches.forward(LARGE)
    launches.library.forget_calls()
    launches.forward(LARGE, device=other)
    assert [call for call in launches.calls if call[0] == "allow"]
    assert launches.library.device_in_use() == 0


def test_a_refused_allowance_is_an_error_and_is_asked_for_again(launches: Launches) -> None:
    launches.library.refuse_allowances(1)
    with pytest.raises(RuntimeError, match=r"launching kernel cloud_tree on CUDA device \d+: cuda"):
        launches.forward(LARGE)
    assert launches.library.pending_error() == 0
    launches.forward(LARGE)
    allowances = [kernel for what, kernel, _ in launches.calls if what == "allow"]
    assert allowances.count(allowances[0]) == 2
