"""What benchmarks/gpu_check.sh builds where nvcc is: it must import and say what it lacks without a
device and without a driver. The script itself runs as far as it can."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from fake_machine import SCRIPT, needs_script
from tsloss_fast.benchmarks.gpu.rows import REHEARSAL

pytestmark = [
    pytest.mark.slow,
    needs_script,
    pytest.mark.skipif(
        not shutil.which("nvcc") or not shutil.which("cmake"), reason="needs nvcc and cmake"
    ),
]

# The script throws away what it has built; this keeps a copy.
PYTHON = r"""#!/usr/bin/env bash
"$REAL_PYTHON" "$@"
code=$?
case $* in
  *"-m pip install"*"--target "*)
    all=$*
    site=${all##*--target }
    cp -r -- "${site%% --*}" "$KEPT_SITE" ;;
esac
exit $code
"""

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
assert tsloss_fast.__version__.endswith("+cu" + "{toolkit}".replace(".", ""))
print(tsloss_fast.h0_persistence(torch.tensor([[0.0], [1.0], [3.0]])).deaths.tolist())
for op in ("h0", "h0_backward"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key("tsloss_fast::" + op, "CUDA")
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    x = torch.empty(3, 5, 2, device="cuda", dtype=torch.bfloat16)
    deaths, edges = tsloss_fast.h0_persistence(x)
    grad = torch.ops.tsloss_fast.h0_backward(deaths, x, deaths, edges, None, "euclidean")
    print(deaths.dtype, deaths.device.type, grad.dtype)
if not torch.cuda.is_available():
    try:
        _core.cuda_workspace(0, 0, torch.utils.dlpack.to_dlpack(torch.zeros(1, 5, 2)))
    except RuntimeError as error:
        print(error)
"""


class Checked(NamedTuple):
    """What a run of the script left."""

    status: int
    out: Path
    site: Path


def toolkit() -> str:
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+\.\d+)", said)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    folder = tmp_path_factory.mktemp("gpu_check")
    out, site, python = folder / "out", folder / "site", folder / "python"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    ours = {"PYTHON": str(python), "REAL_PYTHON": sys.executable, "KEPT_SITE": str(site)}
    # Whoever else uses this machine, the build comes to its end.
    ours["GPU_CHECK_SECONDS"] = "3000"
    # Here, unlike where it matters that the script goes on, a warning is an error.
    strict = {"SKBUILD_CMAKE_ARGS": "-DTSLOSS_WERROR=ON"}
    labelled = {"TSLOSS_LABEL": f"cu{toolkit().replace('.', '')}"}
    done = subprocess.run(
        ["bash", str(SCRIPT), str(out)],
        env={**os.environ, **ours, **strict, **labelled},
        capture_output=True,
        text=True,
        check=False,
    )
    return Checked(done.returncode, out, site)


def test_it_runs_here(checked: Checked) -> None:
    report = (checked.out / "report.md").read_text(encoding="utf-8")
    assert "- build: passed" in report, report
    assert "- doctor: passed" in report, report
    if torch.cuda.is_available():
        assert checked.status in (0, 3), report
        return
    assert checked.status == 3, report
    assert "CUDA kernels built for sm_90 and later" in report
    assert "- tests: NOT RUN: torch sees no CUDA device" in report
    assert "- rehearse_small: passed" in report
    assert "- rehearse: passed" in report
    assert "- rehearse_prof: passed" in report
    assert REHEARSAL in report
    with tarfile.open(checked.out / "logs.tgz") as archive:
        packed = archive.extractfile("logs/rehearsal.json")
        assert packed is not None
        record = json.load(packed)
    assert record["machine"]["kernels built for"] == "90"


def test_a_build_with_kernels_imports_and_registers_them(checked: Checked) -> None:
    path = [str(checked.site), *(p for p in sys.path if Path(p).name == "site-packages")]
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM.format(path=path, toolkit=toolkit())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["[1.0, 2.0]", "torch.float32 cuda torch.bfloat16"]
    if not torch.cuda.is_available():
        assert "on CUDA device 0: cudaError" in lines[2]


def test_sanitizers_and_profilers_find_the_lines_of_the_source(checked: Checked) -> None:
    """-lineinfo, which a usual build does without: 8.6 MB of objects instead of 3.8."""
    (module,) = (checked.site / "tsloss_fast").glob("_core*.so")
    assert b"debug_line" in module.read_bytes()


def test_no_library_of_a_driver_is_needed_to_load_it(checked: Checked) -> None:
    (module,) = (checked.site / "tsloss_fast").glob("_core*.so")
    said = subprocess.run(["ldd", str(module)], capture_output=True, text=True, check=True).stdout
    assert "cuda" not in said
