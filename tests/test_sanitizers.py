"""The native core under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = {"isa_avx2": "x86-64-v3", "isa_avx512": "x86-64-v4"}
EXTRA = {"isa_avx512vnni": ["-march=x86-64-v4", "-mavx512vnni"]}

pytestmark = [
    pytest.mark.sanitizer,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.uname().machine != "x86_64" or not shutil.which("g++") or not (ROOT / "csrc").is_dir(),
        reason="needs the source tree and g++ on x86-64",
    ),
]


def build(folder: Path, sanitizer: str) -> Path:
    common = ["g++", "-std=gnu++17", "-O1", "-g", f"-fsanitize={sanitizer}", "-Wno-psabi"]
    common += ["-fopenmp-simd", "-fno-sanitize-recover=all", "-DTSLOSS_X86", f"-I{ROOT / 'csrc'}"]

    def compile_one(source: Path) -> str:
        arch = ARCHITECTURES.get(source.stem)
        target = folder / f"{source.stem}.o"
        flags = EXTRA.get(source.stem, [f"-march={arch}"] if arch else [])
        subprocess.run([*common, *flags, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    sources = [*sorted((ROOT / "csrc/cpu").glob("*.cpp")), ROOT / "tests/native/stress.cpp"]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        objects = list(executor.map(compile_one, sources))
    program = folder / "stress"
    subprocess.run([*common, *objects, "-lpthread", "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_core_is_clean_under_sanitizers_with_several_callers(
    tmp_path: Path, sanitizer: str
) -> None:
    program = build(tmp_path, sanitizer)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "same bits for any number of threads\n"
    assert done.stderr == ""
