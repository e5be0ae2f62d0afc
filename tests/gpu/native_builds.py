"""Programs and libraries of CUDA kernels on the host executor (csrc/simt). Processes of a test run
share what is compiled: most of it takes a minute."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from source_tree import ROOT

HAVE_SOURCES = bool(shutil.which("g++")) and (ROOT / "csrc/simt").is_dir()
EXECUTOR = sorted((ROOT / "csrc/simt").glob("*.cpp"))
ORDERS = {"forward": 0, "reverse": 1, "lifo": 2, "random": 3}
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# What the executor is compiled with. A library can hold it and a program too.
PLAIN = ["-O2", "-fPIC"]
UNDER_ADDRESS = ["-O1", *ADDRESS]
UNDER_THREAD = ["-O1", "-DSIMT_TSAN"]

# Finds the fake CUDA runtime of the tests where the CUDA toolkit's would be.
FAKE_CUDA = [f"-I{ROOT / 'tests/native'}", f"-I{ROOT / 'tests/native/fake_cuda'}"]

_COMPILE = ["g++", "-std=gnu++17", "-g1", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]
# A process holds several of these libraries, and each has inline variables of its own.
_COMPILE += ["-fno-gnu-unique"]


def once(target: Path, make: Callable[[], object]) -> Path:
    """The file, made by whoever comes first."""
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            make()
    return target


def _compiled(folder: Path, source: Path, flags: Sequence[str]) -> str:
    command = [*_COMPILE, f"-I{ROOT / 'csrc'}", *flags, "-c", str(source)]
    digest = hashlib.sha256("\n".join(command).encode()).hexdigest()
    target = folder / f"{source.stem}-{digest[:12]}.o"
    return str(once(target, lambda: subprocess.run([*command, "-o", str(target)], check=True)))


def build(
    folder: Path,
    name: str,
    source: Path,
    kernels: Sequence[str],
    executor: Sequence[str] = PLAIN,
    link: Sequence[str] = (),
    further: Sequence[tuple[Path, Sequence[str]]] = (),
) -> Path:
    """The file `name`: a source with kernels, the executor and further sources, each under flags of
    its own."""
    work = [*further, (source, kernels), *((part, executor) for part in EXECUTOR)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda one: _compiled(folder, *one), work))
    target = folder / name
    return once(
        target, lambda: subprocess.run(["g++", *link, *objects, "-o", str(target)], check=True)
    )
