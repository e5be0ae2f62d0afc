"""The build with CUDA kernels, where nvcc is: it must import and say what it lacks without a device
and without a driver."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import tsloss_fast

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("nvcc") or not shutil.which("cmake") or not (ROOT / "csrc").is_dir(),
        reason="needs nvcc, cmake and the source tree",
    ),
]

# Without site, so that no editable installation comes first.
PROGRAM = """
import sys
sys.path[:0] = {path!r}
import torch
import tsloss_fast
from tsloss_fast import _core, doctor
assert tsloss_fast.__file__.startswith({path!r}[0]), tsloss_fast.__file__
assert _core.has_cuda
assert doctor.report()["cuda kernels"] == "built for sm_90 and later", doctor.report()
assert doctor.report()["variant"] == "CUDA {toolkit}", doctor.report()
assert tsloss_fast.__version__ == "1.2+cu" + "{toolkit}".replace(".", "")
print(tsloss_fast.h0_persistence(torch.tensor([[0.0], [1.0], [3.0]])).deaths.tolist())
for op in ("h0", "h0_backward", "h0_from_distances"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key("tsloss_fast::" + op, "CUDA")
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    x = torch.empty(3, 5, 2, device="cuda", dtype=torch.bfloat16)
    deaths, edges = tsloss_fast.h0_persistence(x)
    grad = torch.ops.tsloss_fast.h0_backward(deaths, x, deaths, edges, "euclidean")
    print(deaths.dtype, deaths.device.type, grad.dtype)
if not torch.cuda.is_available():
    try:
        _core.cuda_workspace(0, 0, 0, 1, 5, 2, 0)
    except RuntimeError as error:
        print(error)
"""


def toolkit() -> str:
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+\.\d+)", said)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, whose native module has the kernels (for one architecture)."""
    pybind11 = pytest.importorskip("pybind11")
    folder = tmp_path_factory.mktemp("cuda")
    options = {
        "TSLOSS_CUDA": "ON",
        "TSLOSS_WERROR": "ON",
        "CMAKE_CUDA_ARCHITECTURES": "90",
        "CMAKE_BUILD_TYPE": "Release",
        "SKBUILD_PROJECT_VERSION_FULL": f"1.2+cu{toolkit().replace('.', '')}",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
    }
    defines = [f"-D{name}={value}" for name, value in options.items()]
    build = folder / "build"
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *defines],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    target = folder / "tsloss_fast"
    source = Path(tsloss_fast.__file__).parent
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "_core*.so"))
    (module,) = build.glob("_core*.so")
    shutil.copy(module, target)
    return folder


def test_a_build_with_kernels_imports_and_registers_them(package: Path) -> None:
    path = [str(package), *dict.fromkeys(sysconfig.get_paths()[k] for k in ("purelib", "platlib"))]
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM.format(path=path, toolkit=toolkit())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["[1.0, 2.0]", "torch.float32 cuda torch.bfloat16"]
    if len(lines) > 2:
        assert "on CUDA device 0: cudaError" in lines[2]


def test_no_library_of_a_driver_is_needed_to_load_it(package: Path) -> None:
    (module,) = (package / "tsloss_fast").glob("_core*.so")
    said = subprocess.run(["ldd", str(module)], capture_output=True, text=True, check=True).stdout
    assert "cuda" not in said
