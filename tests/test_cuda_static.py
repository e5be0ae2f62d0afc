"""What nvcc says of the kernels, for every architecture: no warning, no spill, no local memory, and
enough warps at a time."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Warps and bytes of shared memory of a multiprocessor: CUDA C++ Programming Guide, "Compute
# Capabilities". All have 65536 registers, given to warps in units of 256.
WARPS = {80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 120: 48}
SHARED_KIB = {80: 164, 86: 100, 89: 100, 90: 228, 100: 228, 120: 100}
# Threads of a block, and the least share of a multiprocessor's warps that must fit. The tree of a
# cloud is a block of its own and lives on shared memory: one block is what is asked for.
KERNELS = {
    "distance_tiles": (256, 0.3),
    "sum_splits": (256, 0.5),
    "clear_facts": (256, 0.75),
    "look_at_points": (256, 0.35),
    "cloud_tree": (512, 0.25),
    "find_incident_edges": (1024, 0.5),
    "route_gradient": (128, 0.25),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("nvcc") or not (ROOT / "csrc/cuda").is_dir(),
        reason="needs nvcc and the source tree",
    ),
]


class Use(NamedTuple):
    """Of one instance of a kernel on one architecture."""

    kernel: str
    architecture: int
    registers: int
    shared: int  # bytes, static

    def occupancy(self) -> float:
        threads, _ = KERNELS[self.kernel]
        warps = threads // 32
        of_warp = -(-self.registers * 32 // 256) * 256
        by_registers = 65536 // of_warp // 4 * 4 // warps
        # A block takes 1 KiB for the system.
        by_shared = SHARED_KIB[self.architecture] * 1024 // (self.shared + 1024)
        limit = WARPS[self.architecture]
        return min(by_registers, by_shared, limit // warps) * warps / limit


def uses(said: str) -> Iterator[Use]:
    pattern = (
        r"Compiling entry function '(\w+)' for 'sm_(\d+)\w*'.*?"
        r"Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?"
    )
    for symbol, architecture, registers, shared in re.findall(pattern, said, re.DOTALL):
        (kernel,) = (name for name in KERNELS if f"{len(name)}{name}" in symbol)
        yield Use(kernel, int(architecture), int(registers), int(shared or 0))


def test_every_architecture_takes_the_kernels_and_fills_its_multiprocessors(
    tmp_path: Path,
) -> None:
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in WARPS]
    strict = ["-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror"]
    command = ["nvcc", "-std=c++17", "-O3", "--threads", "2", f"-I{ROOT / 'csrc'}", *targets]
    command += [*strict, "-c", str(ROOT / "csrc/cuda/launch.cu"), "-o", str(tmp_path / "launch.o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    found = list(uses(said))
    assert {(use.kernel, use.architecture) for use in found} == {
        (kernel, architecture) for kernel in KERNELS for architecture in WARPS
    }
    print("| kernel | sm | registers | shared | occupancy |\n|---|---|---|---|---|")
    for use in sorted(set(found)):
        print(
            f"| {use.kernel} | {use.architecture} | {use.registers} | {use.shared} "
            f"| {use.occupancy():.0%} |"
        )
    low = [use for use in found if use.occupancy() < KERNELS[use.kernel][1]]
    assert not low
