"""Builds the native core with one of the programs of tests/native: under a sanitizer, or for
another processor.

As a script, builds in a folder and runs what `make fuzz` and `make valgrind` are for.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from source_tree import ROOT

NATIVE = ROOT / "tests/native"
# Width of the vectors in bytes, and the flags of the compiler, as in CMakeLists.txt.
KERNELS = {
    "baseline": (16, []),
    "avx2": (32, ["-march=x86-64-v3"]),
    "avx512": (64, ["-march=x86-64-v4"]),
}
_FLAGS = {f"isa_{name}": flags for name, (_, flags) in KERNELS.items()}
_FLAGS["byte_codes"] = ["-march=x86-64-v4", "-mavx512vnni"]
# Only the files of kernels may fuse a multiplication and an addition, as in CMakeLists.txt. The
# programs may not, because their oracles compute the same bits.
_UNFUSED = "-ffp-contract=off"
AARCH64 = "aarch64-linux-gnu-g++"
# The CMake of the environment comes first: it need not be on PATH.
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
COVERAGE = "-fsanitize=fuzzer-no-link"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FUZZ = ["fuzz.cpp", "fuzz_forward.cpp", "fuzz_others.cpp", "fuzz_loss.cpp", "fuzz_shards.cpp"]
# Thresholds of csrc/cpu/tuning.h at which clouds of a few points take every path.
LOW = {
    "kTileDimension": "24",
    "kSmallDimension": "24",
    "kLargePointsLow": "128",
    "kLargePoints": "112",
    "kLargePointsHigh": "97",
    "kSpatialPoints1": "24",
    "kSpatialPoints2": "40",
    "kSpatialPoints3": "40",
    "kSpatialPoints4": "56",
    "kCodedDimension": "12",
    "kHitsForWave": "6",
    "kFewPoints": "128",
    "kParallelWork": "64",
    "kKeptBytes": "1 << 16",
}


def low_thresholds(folder: Path) -> Path:
    """A folder whose cpu/tuning.h has them; it comes before csrc on the include path."""
    text = (ROOT / "csrc/cpu/tuning.h").read_text(encoding="utf-8")
    for name, value in LOW.items():
        text, count = re.subn(rf"(constexpr \w+ {name} = )[^;]+;", rf"\g<1>{value};", text)
        assert count == 1, name
    (folder / "low/cpu").mkdir(parents=True, exist_ok=True)
    target = folder / "low/cpu/tuning.h"
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
    return folder / "low"


def kernel_source(name: str, folder: Path) -> Path:
    """Write the source of one instruction set to a folder, as CMake does, and return its path."""
    target = folder / f"isa_{name}.cpp"
    text = (
        f"#define TSLOSS_NAMESPACE {name}\n#define TSLOSS_VECTOR_BYTES {KERNELS[name][0]}\n"
        '#include "cpu/kernels/kernels.inl"\n'
    )
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
    return target


@dataclass
class Core:
    """The objects of csrc/cpu, and how they were compiled."""

    command: list[str]
    folder: Path
    objects: list[str]

    def program(self, name: str, sources: Sequence[str], flags: Sequence[str] = ()) -> Path:
        """Of files in tests/native."""
        target = self.folder / name
        objects = _compile(self.command, [NATIVE / s for s in sources], self.folder)
        link = [*self.command, *flags, *objects, *self.objects, "-lpthread", "-o", str(target)]
        subprocess.run(link, check=True)
        return target


def configure(folder: Path, *definitions: str) -> subprocess.CompletedProcess[str]:
    """CMake's first step for the whole package, in a folder."""
    import pybind11

    definitions = (f"pybind11_DIR={pybind11.get_cmake_dir()}", *definitions)
    return subprocess.run(
        [
            *(CMAKE or "cmake", "-S", str(ROOT), "-B", str(folder)),
            *(f"-D{definition}" for definition in definitions),
            f"-DPython_EXECUTABLE={sys.executable}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def build_core(
    folder: Path, flags: Sequence[str], *, compiler: str = "g++", low: bool = False
) -> Core:
    folder.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-std=gnu++17", "-O1", "-g1", "-Wno-psabi", "-fopenmp-simd", *flags]
    command += ["-fno-omit-frame-pointer", "-DTSLOSS_X86", "-Wno-deprecated-declarations", _UNFUSED]
    command += [f"-I{low_thresholds(folder)}"] if low else []
    command += [f"-I{ROOT / 'csrc'}", f"-I{NATIVE}"]
    sources = sorted((ROOT / "csrc/cpu").rglob("*.cpp"))
    sources += [kernel_source(name, folder) for name in KERNELS]
    return Core(command, folder, _compile(command, sources, folder))


def build_core_for_aarch64(folder: Path) -> Core:
    """Cross-compile the library of CMakeLists.txt, so that its flags are those of the product.

    Thresholds are low. Programs are linked statically, so that an emulator needs no other file.
    """
    low = low_thresholds(folder)
    done = configure(
        folder,
        "CMAKE_SYSTEM_NAME=Linux",
        "CMAKE_SYSTEM_PROCESSOR=aarch64",
        f"CMAKE_CXX_COMPILER={AARCH64}",
        f"CMAKE_CXX_FLAGS=-iquote {low}",  # before the folders of -I
        f"TSLOSS_WERROR={os.environ.get('TSLOSS_WERROR', 'OFF')}",
        "TSLOSS_CUDA=OFF",
        # CMake looks for headers of Python, which the library does not use.
        f"Python_INCLUDE_DIR={sysconfig.get_path('include')}",
    )
    assert done.returncode == 0, done.stderr
    build = [CMAKE or "cmake", "--build", str(folder), "--target", "tsloss_core", "-j2"]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    command = [AARCH64, "-std=gnu++17", "-O1", "-Wno-psabi", _UNFUSED, "-static"]
    command += [f"-I{low}", f"-I{ROOT / 'csrc'}", f"-I{NATIVE}"]
    return Core(command, folder, [str(folder / "libtsloss_core.a")])


def _compile(command: list[str], sources: Sequence[Path], folder: Path) -> list[str]:
    """Only what is older than what it may include."""
    headers = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.inl")]
    read = [*headers, *folder.glob("low/cpu/*"), *sources[0].parent.glob("*.h")]
    newest = max(path.stat().st_mtime for path in read)
    fused = [] if "clang" in Path(command[0]).name else ["-ffp-contract=fast"]

    def one(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        if target.exists() and target.stat().st_mtime > max(newest, source.stat().st_mtime):
            return str(target)
        flags = [*_FLAGS[source.stem], *fused] if source.stem in _FLAGS else []
        if source.stem in _FLAGS and COVERAGE in command:
            # With coverage of what UndefinedBehaviorSanitizer adds to kernels, Clang takes minutes.
            flags.append("-fno-sanitize=undefined")
        subprocess.run([*command, *flags, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        return list(executor.map(one, sources))


def unpack_corpus(folder: Path) -> int:
    """Writes each input of tests/native/corpus to a file, and returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = set()
    for packed in sorted((NATIVE / "corpus").glob("*.txt")):
        for line in packed.read_text(encoding="ascii").splitlines():
            if not line.startswith("#"):
                inputs.add(base64.b64decode(line))
    for data in inputs:
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    return len(inputs)


def fuzz(folder: Path, seconds: int) -> list[str]:
    """The command that fuzzes the core: by libFuzzer where Clang is, else by our own driver."""
    corpus = folder / "known"
    unpack_corpus(corpus)
    clang = next(filter(None, map(shutil.which, ("clang++", "clang++-19", "clang++-14"))), None)
    if clang is None:
        core = build_core(folder, SANITIZERS, low=True)
        program = core.program("fuzz", [*FUZZ, "fuzz_driver.cpp"])
        seed = int.from_bytes(os.urandom(4), "big")
        return [str(program), str(corpus), str(2**31), str(seed), str(seconds)]
    core = build_core(folder, [*SANITIZERS, COVERAGE], compiler=clang, low=True)
    program = core.program("fuzz", FUZZ, ["-fsanitize=fuzzer"])
    found = folder / "corpus"
    found.mkdir(exist_ok=True)
    options = ["-max_len=512", "-len_control=10", "-timeout=300", f"-artifact_prefix={folder}/"]
    return [str(program), *options, f"-max_total_time={seconds}", str(found), str(corpus)]


def valgrind(folder: Path) -> list[str]:
    """The command that looks for memory that is read before it is written, and for leaks."""
    program = build_core(folder, [], low=True).program("stress", ["stress.cpp"])
    options = ["--leak-check=full", "--error-exitcode=1"]
    # The threads of the pool are never joined: what glibc holds for them counts as perhaps lost.
    options += ["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]
    return ["valgrind", "-q", *options, str(program), "1"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["fuzz", "valgrind"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    folder = args.folder.resolve()
    command = fuzz(folder, args.seconds) if args.what == "fuzz" else valgrind(folder)
    return subprocess.run(command, check=False, cwd=folder).returncode


if __name__ == "__main__":
    raise SystemExit(main())
