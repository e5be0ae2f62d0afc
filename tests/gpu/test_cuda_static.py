"""What nvcc says of the kernels: no warning, no spill, no local memory, and enough warps at a time.

TSLOSS_UPDATE=1 compiles for every architecture and writes the table anew, which a change of the
kernels needs; without it, some stand for all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from source_tree import ROOT

TABLE = ROOT / "csrc/cuda/kernels.md"
# Warps and bytes of shared memory of a multiprocessor: CUDA C++ Programming Guide, "Compute
# Capabilities". All have 65536 registers, given to warps in units of 256.
WARPS = {80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 120: 48}
SHARED_KIB = {80: 164, 86: 100, 89: 100, 90: 228, 100: 228, 120: 100}
UPDATE = bool(os.environ.get("TSLOSS_UPDATE"))
# Most of a minute each. The oldest, the one that is measured, and the newest, whose multiprocessors
# hold as little as those of 86 and 89.
COMPILED = tuple(WARPS) if UPDATE else (80, 90, 120)
# Threads of a block (the largest), and the least share of a multiprocessor's warps that must fit.
# The tree of a cloud is a block of its own and lives on shared memory: one block is what is asked
# for.
KERNELS = {
    "distance_tiles": (256, 0.3),
    "sum_splits": (256, 0.5),
    "clear_facts": (256, 0.75),
    "look_at_points": (256, 0.35),
    "cloud_tree": (512, 0.25),
    "small_cloud": (352, 0.15),
    "sum_slices": (352, 0.15),
    "add_parts": (128, 0.75),
    "clear_forest": (256, 0.5),
    "bound_segments": (256, 0.5),
    "bound_tiles": (256, 0.3),
    "find_least_keys": (256, 0.25),
    "decide_contests": (256, 0.25),
    "join_components": (1024, 0.5),
    "rank_bars": (128, 0.5),
    "look_at_matrices": (256, 0.5),
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


def cells(found: list[Use]) -> dict[tuple[str, str], str]:
    """The most demanding instance of each kernel on each architecture."""
    by_place: dict[tuple[str, str], list[Use]] = {}
    for use in found:
        by_place.setdefault((use.kernel, f"sm_{use.architecture}"), []).append(use)
    return {
        place: f"{max(u.registers for u in uses)} / {max(u.shared for u in uses)} / "
        f"{min(u.occupancy() for u in uses):.0%}"
        for place, uses in by_place.items()
    }


def first_line() -> str:
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release ([\d.]+)", said)
    assert release
    return (
        f"Kernels as compiled by nvcc {release[1]}: registers of a thread / bytes of static shared "
        "memory / share of a multiprocessor's warps that fit."
    )


def table(found: list[Use]) -> str:
    by_place, columns = cells(found), [f"sm_{a}" for a in WARPS]
    lines = [
        f"{first_line()}\n",
        "| kernel | " + " | ".join(columns) + " | at least |",
        "|---" * (len(WARPS) + 2) + "|",
    ]
    for kernel, (_, least) in KERNELS.items():
        row = " | ".join(by_place[kernel, column] for column in columns)
        lines.append(f"| `{kernel}` | {row} | {least:.0%} |")
    return "\n".join(lines) + "\n"


def written_cells() -> dict[tuple[str, str], str]:
    """The cells of the table's file; none if another compiler wrote it, that may use other
    registers."""
    title, _, header, _, *rows = TABLE.read_text(encoding="utf-8").splitlines()
    if title != first_line():
        return {}
    _, *names = (name.strip() for name in header.strip("|").split("|"))
    found = {}
    for row in rows:
        kernel, *values = (value.strip(" `") for value in row.strip("|").split("|"))
        found |= {(kernel, name): value for name, value in zip(names, values, strict=True)}
    return found


def test_the_kernels_compile_and_fill_their_multiprocessors(tmp_path: Path) -> None:
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in COMPILED]
    strict = ["-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror"]
    command = ["nvcc", "-std=c++17", "-O3", "--threads", "2", f"-I{ROOT / 'csrc'}", *targets]
    # What runs on the device alone: the rest is compiled in test_cuda_build.
    command += [*strict, "-fatbin", str(ROOT / "csrc/cuda/launch.cu")]
    command += ["-o", str(tmp_path / "launch.fatbin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    found = list(uses(said))
    assert {(use.kernel, use.architecture) for use in found} == {
        (kernel, architecture) for kernel in KERNELS for architecture in COMPILED
    }
    low = [use for use in found if use.occupancy() < KERNELS[use.kernel][1]]
    assert not low
    if UPDATE:
        TABLE.write_text(table(found), encoding="utf-8")
    if written := written_cells():
        now = cells(found)
        assert now == {place: written[place] for place in now}, (
            f"{TABLE.name} is out of date; TSLOSS_UPDATE=1 writes it"
        )
        # Of the architectures that were not compiled now, the table is what is known.
        for kernel, (_, least) in KERNELS.items():
            shares = [written[kernel, f"sm_{a}"].rpartition(" ")[2] for a in WARPS]
            assert written[kernel, "at least"] == f"{least:.0%}"
            assert all(float(share.rstrip("%")) >= 100 * least for share in shares), kernel
