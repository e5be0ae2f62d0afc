"""The kernels on the host executor by their PTX: nvcc compiles them to PTX, which is translated to
C++ (ptx.py) and takes the place of the source in the library and program of cuda_host.py."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import ptx
from cuda_host import LIBRARY, PROGRAM, including_limits
from native_builds import (
    ADDRESS,
    HAVE_SOURCES,
    PLAIN,
    UNDER_ADDRESS,
    UNDER_THREAD,
    build,
    once,
)
from source_tree import ROOT

MISSING = (
    "needs the source tree and g++"
    if not HAVE_SOURCES
    else "needs nvcc, which writes the PTX"
    if not shutil.which("nvcc")
    else ""
)
# Entries for points and matrices of float32, and for the unit vectors of cosine, which are double.
FLOAT32 = r"^(?!.*(Half|BFloat16|EdEEv|MatrixCloudsIdE|look_at_\w+IdE|gradientIdd|IdLNS0_4TermE1))"
PARTS = 8  # files of about 15,000 lines, compiled two at a time
TRANSLATED = [
    *("-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-Wno-unused-label"),
    f"-I{ROOT / 'tests/native'}",
]
# The kernels' source is compiled for its symbols alone, and never runs.
_SOURCE = ["-O0", "-fPIC", "-DTSLOSS_PTX"]


def compile_ptx(folder: Path) -> str:
    """The PTX of all kernels, by the flags of test_cuda_static.py."""
    target = folder / "launch.ptx"
    command = ["nvcc", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", "-arch=sm_90", "-ptx"]
    command += [str(ROOT / "csrc/cuda/launch.cu"), "-o", str(target)]
    return once(target, lambda: subprocess.run(command, check=True)).read_text(encoding="utf-8")


def translate(
    folder: Path, name: str, text: str, entries: str = "", parts: int = PARTS
) -> list[Path]:
    """C++ of those entries of a PTX text whose name the pattern `entries` is found in, in the
    folder `name`, written once."""
    target = folder / name
    done = target / "done"

    def make() -> None:
        module = ptx.parse(text, "launch.ptx")
        module = module._replace(entries=[e for e in module.entries if re.search(entries, e.name)])
        ptx.write(module, target, parts)
        done.touch()

    target.mkdir(exist_ok=True)
    once(done, make)
    return sorted(target.glob("*.cpp"))


def build_library(
    folder: Path, text: str, source: Path = LIBRARY, flags: Sequence[str] = ()
) -> Path:
    """The library of cuda_host.py, or of another source, which runs all entries of a PTX text."""
    return build(
        folder,
        f"{source.stem}-ptx.so",
        source,
        [*_SOURCE, including_limits(folder), *flags],
        link=["-shared"],
        further=[(part, ["-O1", *TRANSLATED]) for part in translate(folder, "ptx", text)],
    )


def build_program(
    folder: Path, name: str, kind: str, text: str, entries: str = "", parts: int = PARTS
) -> Path:
    """The program of test_cuda_programs.py, which runs those entries of a PTX text."""
    kernels, executor, link = {
        "plain": ([], PLAIN, []),
        # Nothing is undefined in what the translator writes: UBSan would take a minute for nothing.
        "address": (["-fsanitize=address"], UNDER_ADDRESS, ADDRESS),
        "thread": (["-fsanitize=thread"], UNDER_THREAD, ["-fsanitize=thread"]),
    }[kind]
    sources = translate(folder, name, text, entries, parts)
    return build(
        folder,
        f"{name}-{kind}",
        PROGRAM,
        [*_SOURCE, including_limits(folder)],
        executor,
        ["-rdynamic", *link],
        [(source, ["-O1", *TRANSLATED, *kernels]) for source in sources],
    )
