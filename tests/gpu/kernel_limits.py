"""The table of limits that launches are checked against: launch bounds are read from the source,
registers and static shared memory on sm_90 from csrc/cuda/kernels.md."""

from __future__ import annotations

import itertools
import re

from source_tree import ROOT

KERNELS = ROOT / "csrc/cuda"
TABLE = KERNELS / "kernels.md"
_BOUNDED = re.compile(
    r"__global__\s+void\s+__launch_bounds__\(((?:[^()]|\([^()]*\))*)\)\s*(\w+)\s*\("
)


def launch_bounds() -> dict[str, str]:
    """The most threads of a block of each kernel, as an expression of C++."""
    found: dict[str, str] = {}
    for path in sorted(KERNELS.glob("*.cuh")):
        text = path.read_text(encoding="utf-8")
        bounds = {name: written.split(",")[0] for written, name in _BOUNDED.findall(text)}
        if text.count("__global__") != len(bounds):
            raise ValueError(
                f"{path.name} has {text.count('__global__')} kernels and launch bounds of "
                f"{sorted(bounds)}: write `__global__ void __launch_bounds__(...) name(` for each"
            )
        found |= bounds
    return found


def compiled() -> dict[str, tuple[int, int]]:
    """Registers of a thread and bytes of static shared memory of each kernel on sm_90; the most of
    its instances."""
    lines = iter(TABLE.read_text(encoding="utf-8").splitlines())
    header = next(cells for cells in map(_cells, lines) if cells[0] == "kernel")
    column = header.index("sm_90")
    found = {}
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines):
        kernel, written = _cells(line)[0], _cells(line)[column]
        if not written.startswith("--"):
            registers, shared, *_ = written.split("/")
            found[kernel] = int(registers), int(shared)
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip(" `") for cell in line.strip().strip("|").split("|")]


def table() -> str:
    """The rows of `kLimits` in tests/native/simt_launch.h."""
    made = compiled()
    return "".join(
        f'{{"{kernel}", {{{threads}, {made[kernel][0]}, {made[kernel][1]}}}}},\n'
        for kernel, threads in launch_bounds().items()
        if kernel in made
    )
