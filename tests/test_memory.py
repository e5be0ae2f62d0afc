"""Memory that cannot be had: a MemoryError that says how many bytes it would have taken."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from python_process import run_python
from source_tree import ROOT

from tsloss_fast import h0_persistence, h0_persistence_from_distances, h0_persistence_varlen

ONE = torch.zeros(1)
HALF = torch.zeros(1, dtype=torch.float16)

# The call, the bytes of the first thing that cannot be had, and the shape that the message names.
TOO_LARGE: dict[str, tuple[Callable[[], object], int, str]] = {
    "a copy of the points": (
        lambda: h0_persistence(ONE.expand(2**33, 2**20)),
        2**55,
        "(8589934592, 1048576)",
    ),
    "points in double precision, by name": (
        lambda: h0_persistence(points=ONE.double().expand(2**33, 2**20), metric="cosine"),
        2**56,
        "(8589934592, 1048576)",
    ),
    "points that are not the first argument": (
        lambda: h0_persistence(metric="manhattan", points=ONE.expand(2**33, 2**20)),
        2**55,
        "(8589934592, 1048576)",
    ),
    "half types, which are widened": (
        lambda: h0_persistence(HALF.expand(2**33, 2**20)),
        2**55,
        "(8589934592, 1048576)",
    ),
    "bytes beyond 64 bits": (
        lambda: h0_persistence(ONE.expand(2**40, 2**22)),
        2**64,
        "(1099511627776, 4194304)",
    ),
    "half types beyond 64 bits": (
        lambda: h0_persistence(HALF.expand(2**40, 2**22)),
        2**64,
        "(1099511627776, 4194304)",
    ),
    "bars of points without coordinates": (
        lambda: h0_persistence(torch.empty(2**46, 0)),
        4 * (2**46 - 1),
        "(70368744177664, 0)",
    ),
    "an array": (
        lambda: h0_persistence(np.broadcast_to(np.zeros(1), (2**33, 2**20))),
        2**56,
        "(8589934592, 1048576)",
    ),
    "distances": (
        lambda: h0_persistence_from_distances(ONE.expand(2**25, 2**25)),
        2**52,
        "(33554432, 33554432)",
    ),
    "a ragged batch": (
        lambda: h0_persistence_varlen(ONE.expand(2**33, 2**20), [0, 2**33]),
        2**55,
        "(8589934592, 1048576)",
    ),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_request_beyond_all_memory_says_how_much_it_was(name: str) -> None:
    call, size, shape = TOO_LARGE[name]
    with pytest.raises(MemoryError) as caught:
        call()
    text = str(caught.value)
    assert re.match(r"h0_persistence\w* needs \d+ bytes at once for an input of shape ", text)
    assert f" {size} bytes " in text
    assert shape in text
    assert "\n" not in text


def test_scratch_memory_of_the_core_says_how_much_it_was() -> None:
    """In a process that gets no more: padded rows of the points are the first that the core wants
    beside the bars."""
    done = run_python(
        """
import resource, torch
from tsloss_fast import h0_persistence
torch.set_num_threads(1)
h0_persistence(torch.ones(10, 50, dtype=torch.float64))
points = torch.ones(20000, 50, dtype=torch.float64)
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 20), -1))
try:
    h0_persistence(points)
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(float(h0_persistence(points[:10]).deaths.sum()))
"""
    )
    text, after = done.stdout.splitlines()
    assert f"h0_persistence needs {20000 * 64 * 8} bytes at once" in text
    assert after == "0.0"


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "csrc").is_dir() or not shutil.which("g++"), reason="needs the source tree and g++"
)
def test_every_failed_allocation_of_the_core_is_a_memory_error(tmp_path: Path) -> None:
    """As tests/native/allocations.cpp, through the binding."""
    library = tmp_path / "failing_new.so"
    source = ROOT / "tests/native/failing_new.cpp"
    command = ["g++", "-std=gnu++17", "-O1", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    done = run_python(
        """
import ctypes, os, torch
from tsloss_fast import _core
library = ctypes.CDLL(os.environ["LD_PRELOAD"])
points = torch.randn(300, 60, generator=torch.Generator().manual_seed(0))

def results(threads):
    deaths, edges, _ = _core.h0_forward(2, points, None, None, threads)
    return deaths, edges, _core.h0_backward(2, deaths, points, None, deaths, edges, threads)

errors = 0
for threads in (1, 3):
    for path in (1, 2, 3):
        _core.set_overrides(path)
        expected = results(threads)
        for every in (0, 1):
            k, failed = 0, 1
            while failed:
                library.fail_allocation(k, every)
                try:
                    results(threads)
                except MemoryError:
                    errors += 1
                except RuntimeError as error:  # torch had none for a tensor
                    assert "bad_alloc" in str(error), error
                    errors += 1
                failed = library.failed_allocations()
                library.fail_allocation(-1, 0)
                assert all(map(torch.equal, results(threads), expected)), k
                k += 1
print(errors)
""",
        LD_PRELOAD=str(library),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
