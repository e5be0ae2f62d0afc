"""nvcc compiles the kernels without a warning, a spill or local memory, and a multiprocessor holds
enough of their warps. Their machine code rounds no subnormal number to 0 and has no load that may
miss what the same launch has written.

TSLOSS_UPDATE=1 compiles for every architecture and writes the tables anew, which a change of the
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
import sass
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
# Machine code is recorded for one architecture: the one that is measured.
RECORDED = 90
# These kernels call `rough_inverse` of port.cuh, which flushes subnormal numbers to 0. Its
# arguments lie in [1, 2^60), so neither they nor their inverses are subnormal.
ROUGH_INVERSES = {"route_gradient"}

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


def kernel_of(symbol: str) -> str:
    (kernel,) = (name for name in KERNELS if f"{len(name)}{name}" in symbol)
    return kernel


def uses(said: str) -> Iterator[Use]:
    pattern = (
        r"Compiling entry function '(\w+)' for 'sm_(\d+)\w*'.*?"
        r"Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?"
    )
    for symbol, architecture, registers, shared in re.findall(pattern, said, re.DOTALL):
        yield Use(kernel_of(symbol), int(architecture), int(registers), int(shared or 0))


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


def release() -> str:
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release ([\d.]+)", said)
    assert found
    return found[1]


def titles() -> tuple[str, str]:
    return (
        f"Kernels as compiled by nvcc {release()}: registers of a thread / bytes of static shared "
        "memory / share of a multiprocessor's warps that fit.",
        f"Their machine code for sm_{RECORDED} by nvcc {release()}, for each type of the points' "
        "coordinates: loads from global memory as bytes × number of instructions / share of "
        "floating-point arithmetic among the instructions of the inner loop that has most of it. "
        "A kernel may have several instances for one type; the table shows the one with the least "
        "share.",
    )


def register_table(found: list[Use]) -> str:
    by_place, columns = cells(found), [f"sm_{a}" for a in WARPS]
    lines = [
        "| kernel | " + " | ".join(columns) + " | at least |",
        "|---" * (len(WARPS) + 2) + "|",
    ]
    for kernel, (_, least) in KERNELS.items():
        row = " | ".join(by_place[kernel, column] for column in columns)
        lines.append(f"| `{kernel}` | {row} | {least:.0%} |")
    return "\n".join(lines)


POINTS = {"": "no points", "d": "float64", "f": "float32", "16": "float16, bfloat16"}


def points_of(symbol: str) -> str:
    """Return the type of the points' coordinates in an instance of a kernel, as in its name."""
    if re.search("MatrixClouds|look_at_matrices", symbol):
        return POINTS[""]
    if "Half" in symbol or "BFloat16" in symbol:
        return POINTS["16"]
    template = re.search(r"I([df])(?:E|L|[df]L)", symbol)
    return POINTS[template[1] if template else ""]


def code_cells(code: list[sass.Kernel]) -> dict[tuple[str, str], str]:
    instances: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for kernel in code:
        loads = " ".join(f"{b}×{n}" for b, n in sorted(kernel.loads().items(), reverse=True))
        arithmetic, issued = kernel.hottest_loop()
        share = arithmetic / max(issued, 1)
        cell = f"{loads or 'none'} / {f'{share:.0%} of {issued}' if arithmetic else 'none'}"
        place = kernel_of(kernel.symbol), points_of(kernel.symbol)
        instances.setdefault(place, []).append((share, cell))
    return {place: min(found)[1] for place, found in instances.items()}


def code_table(code: list[sass.Kernel]) -> str:
    by_place = code_cells(code)
    lines = ["| kernel | " + " | ".join(POINTS.values()) + " |", "|---" * (len(POINTS) + 1) + "|"]
    for kernel in KERNELS:
        row = " | ".join(by_place.get((kernel, points), "") for points in POINTS.values())
        lines.append(f"| `{kernel}` | {row} |")
    return "\n".join(lines)


def written_cells(which: int) -> dict[tuple[str, str], str]:
    """Return the cells of one of the file's tables; none if another version of the compiler wrote
    it, whose code may differ."""
    paragraphs = TABLE.read_text(encoding="utf-8").rstrip().split("\n\n")
    title, table = paragraphs[2 * which : 2 * which + 2]
    if title != titles()[which]:
        return {}
    header, _, *rows = table.splitlines()
    _, *names = (name.strip() for name in header.strip("|").split("|"))
    found = {}
    for row in rows:
        kernel, *values = (value.strip(" `") for value in row[1:-1].split("|"))
        found |= {(kernel, name): v for name, v in zip(names, values, strict=True) if v}
    return found


def write(which: int, table: str) -> None:
    paragraphs = TABLE.read_text(encoding="utf-8").rstrip().split("\n\n")
    paragraphs[2 * which : 2 * which + 2] = [titles()[which], table]
    TABLE.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


class Compiled(NamedTuple):
    said: str
    folder: Path  # with a cubin for each architecture


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("kernels")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in COMPILED]
    strict = ["-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror"]
    command = ["nvcc", "-std=c++17", "-O3", "--threads", "2", f"-I{ROOT / 'csrc'}", *targets]
    # What runs on the device alone: the rest is compiled in test_cuda_build.
    command += [*strict, "-fatbin", str(ROOT / "csrc/cuda/launch.cu")]
    command += ["--keep", "--keep-dir", str(folder), "-o", str(folder / "launch.fatbin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    return Compiled(said, folder)


@pytest.fixture(scope="module")
def code(compiled: Compiled) -> dict[int, list[sass.Kernel]]:
    """Return the machine code of all kernels by architecture."""
    program = sass.disassembler()
    if program is None:
        pytest.skip("needs nvdisasm: it comes with a full CUDA toolkit and in nvidia-cuda-nvdisasm")
    return {
        a: sass.read(
            subprocess.run(
                [program, "-c", str(compiled.folder / f"launch.compute_{a}.cubin")],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for a in COMPILED
    }


def test_the_kernels_compile_and_fill_their_multiprocessors(compiled: Compiled) -> None:
    found = list(uses(compiled.said))
    assert {(use.kernel, use.architecture) for use in found} == {
        (kernel, architecture) for kernel in KERNELS for architecture in COMPILED
    }
    low = [use for use in found if use.occupancy() < KERNELS[use.kernel][1]]
    assert not low
    if UPDATE:
        write(0, register_table(found))
    if written := written_cells(0):
        now = cells(found)
        assert now == {place: written[place] for place in now}, (
            f"{TABLE.name} is out of date; TSLOSS_UPDATE=1 writes it"
        )
        # Of the architectures that were not compiled now, the table is what is known.
        for kernel, (_, least) in KERNELS.items():
            shares = [written[kernel, f"sm_{a}"].rpartition(" ")[2] for a in WARPS]
            assert written[kernel, "at least"] == f"{least:.0%}"
            assert all(float(share.rstrip("%")) >= 100 * least for share in shares), kernel


def test_the_machine_code_has_no_local_memory_no_flush_and_no_incoherent_load(
    compiled: Compiled, code: dict[int, list[sass.Kernel]]
) -> None:
    forbidden = [
        f"sm_{architecture} {kernel.symbol}: {instruction}"
        for architecture, kernels in code.items()
        for kernel in kernels
        for instruction in [
            *kernel.local_memory(),
            *kernel.flushes(inverse_of_normal=kernel_of(kernel.symbol) in ROUGH_INVERSES),
            *kernel.incoherent_loads(),
        ]
    ]
    assert not forbidden
    # The listing was read whole: it has as many kernels as the compiler reports, all with code.
    for architecture, kernels in code.items():
        assert len(kernels) == sum(u.architecture == architecture for u in uses(compiled.said))
        assert all(any(one.name == "EXIT" for one in kernel.code) for kernel in kernels)


def test_the_table_of_machine_code_is_that_of_the_kernels(
    code: dict[int, list[sass.Kernel]],
) -> None:
    if UPDATE:
        write(1, code_table(code[RECORDED]))
    if written := written_cells(1):
        assert code_cells(code[RECORDED]) == written, (
            f"{TABLE.name} is out of date; TSLOSS_UPDATE=1 writes it"
        )
