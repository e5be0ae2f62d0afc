"""The instruction set is chosen by the environment, once, and a wrong choice is a clear error."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from native_build import CMAKE, configure
from source_tree import ROOT

from tsloss_fast import _core

INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_vnni")


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
def test_the_environment_chooses_the_instruction_set(isa_name: str) -> None:
    if isa_name not in _core.supported_isas():
        pytest.skip(f"this processor has no {isa_name}")
    code = (
        "import torch, tsloss_fast\n"
        "print(tsloss_fast.h0_persistence(torch.tensor([[0.], [3.]])).deaths.item())\n"
        "print(tsloss_fast._core.isa())"
    )
    assert in_subprocess(code, isa_name).stdout.split() == ["3.0", isa_name]


def test_an_unknown_instruction_set_in_the_environment_is_a_clear_error_at_first_use() -> None:
    code = (
        "import torch, tsloss_fast\n"
        "print('imported')\n"
        "try:\n"
        "    tsloss_fast.h0_persistence(torch.zeros(3, 2))\n"
        "except ValueError as error:\n"
        "    print(error)"
    )
    output = in_subprocess(code, "sse9").stdout
    assert output.startswith("imported\n")
    for word in ("TSLOSS_ISA", "sse9", *_core.supported_isas()):
        assert word in output


def in_subprocess(code: str, isa_name: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSLOSS_ISA": isa_name}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


def test_an_unknown_instruction_set_is_refused_and_changes_nothing() -> None:
    before = _core.isa()
    with pytest.raises(ValueError, match="sse9"):
        _core.set_isa("sse9")
    assert _core.isa() == before
    assert before in _core.supported_isas()
    assert "baseline" in _core.supported_isas()


_FUSED = re.compile(r"\tvfn?m(?:add|sub)")


def _commands(folder: Path, *definitions: str) -> list[dict[str, str]]:
    """The compiler's commands for the core, as CMake has them in a folder."""
    wanted = "CMAKE_EXPORT_COMPILE_COMMANDS=ON", "TSLOSS_CUDA=OFF"
    done = configure(folder, *definitions, *wanted)
    assert done.returncode == 0, done.stderr
    commands = json.loads((folder / "compile_commands.json").read_text(encoding="utf-8"))
    return [command for command in commands if "tsloss_core.dir" in command["command"]]


def _assembly_by_function(command: str, *flags: str) -> dict[str, str]:
    """Run a compiler command up to the assembly; return that of each function by its symbol."""
    words = shlex.split(command)
    output = words.index("-o")
    del words[output : output + 2]
    words = [*words, *flags, "-S", "-o", "-"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"\.type\t(\w+), ?@function", said)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "csrc/cpu").is_dir() or not CMAKE, reason="needs the source tree and cmake"
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the instructions of x86-64")
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_no_compiler_fuses_operations_where_bits_are_promised(
    compiler: str, tmp_path: Path
) -> None:
    """The build is that of the package, but for a processor that can fuse operations in every
    function, as those of aarch64 machines can."""
    pytest.importorskip("pybind11")
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    chosen = f"CMAKE_CXX_COMPILER={compiler}", "CMAKE_CXX_FLAGS=-march=x86-64-v3 -w"
    core = [c for c in _commands(tmp_path, *chosen) if "-v4" not in c["command"]]
    assert len(core) >= 15
    quick = "-O1", "-fexpensive-optimizations"  # enough for GCC to fuse what it may
    with ThreadPoolExecutor(2) as pool:
        functions = list(pool.map(lambda c: _assembly_by_function(c["command"], *quick), core))
    for command, found in zip(core, functions, strict=True):
        fused = [name for name, code in found.items() if _FUSED.search(code)]
        if Path(command["file"]).stem.startswith("isa_"):
            # Fast keys have a bound of their error; the exact keys are those of `refine`
            # and of near points in the leaves of a k-d tree, and `route` sums the gradient.
            assert bool(fused) == (Path(command["file"]).stem == "isa_avx2")
            # Clang inlines `refine_of` into `refine`.
            for exact, least in (("refine", 2), ("route", 2), ("near_leaf_of", 16)):
                assert sum(exact in name for name in found) >= least
                assert not [name for name in fused if exact in name]
        else:
            assert found
            assert not fused, command["file"]


_LOOP = re.compile(r"^(\.L\w+):\n((?:\t(?!j|call|ret).*\n)+)\tj\w+\s+\1$", re.M)
_SLOT = r"(-?\d*\(%r[sb]p\))"
_SUM = re.compile(r"^\tv?(?:addp[sd]|fn?madd\d+p[sd]|pdpbusd|paddd)\s.*%[xyz](mm\d+)$", re.M)
_STORE = re.compile(rf"^\tv?mov\w+\s+%[xyz](mm\d+), {_SLOT}$", re.M)


def _summing_loops(code: str) -> list[str]:
    """The loops of a function that are a single block of instructions and add up vectors."""
    instructions = re.sub(r"^(?:\t\.(?:p2align|cfi)|#).*\n", "", code, flags=re.M)
    return [m[2] for m in _LOOP.finditer(instructions) if _SUM.search(m[2])]


def _accumulators_on_the_stack(loop: str) -> list[str]:
    """Places on the stack to which a sum is stored and from which it is read again."""
    sums = set(_SUM.findall(loop))
    return [
        slot
        for register, slot in _STORE.findall(loop)
        if register in sums
        and re.search(rf"^\t\w+\s+(?:[$%]\w+, )*{re.escape(slot)}, ", loop, re.M)
    ]


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "csrc/cpu").is_dir() or not CMAKE or not shutil.which("g++"),
    reason="needs the source tree, cmake and g++",
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the instructions of x86-64")
def test_accumulators_stay_in_registers(tmp_path: Path) -> None:
    """GCC keeps vectors that are wider than those of the target on the stack. Exact keys, once
    written with vectors of 64 bytes, were slow on AVX2 for this reason."""
    pytest.importorskip("pybind11")
    kernels = {
        Path(c["file"]).stem: c["command"]
        for c in _commands(tmp_path, "CMAKE_CXX_COMPILER=g++", "CMAKE_BUILD_TYPE=Release")
        if Path(c["file"]).stem.startswith(("isa_", "byte_codes"))
    }
    assert set(kernels) == {"isa_baseline", "isa_avx2", "isa_avx512", "byte_codes"}
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(kernels, pool.map(_assembly_by_function, kernels.values()), strict=True))
    for file, functions in found.items():
        loops = {name: _summing_loops(code) for name, code in functions.items()}
        seen = (
            ("dot_bytes",) if file == "byte_codes" else ("refine", "pairs_of", "KeyBlock", "panel")
        )
        for kernel in seen:
            assert any(loops[name] for name in loops if kernel in name), (file, kernel)
        for name, those in loops.items():
            for loop in those:
                assert not _accumulators_on_the_stack(loop), f"{file}: {name}\n{loop}"
