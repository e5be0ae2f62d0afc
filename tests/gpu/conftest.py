from __future__ import annotations

import os
import shutil
from pathlib import Path

import ptx_build
import pytest
from cuda_host import HostKernels, build_library
from fake_machine import SCRIPT, TOOLS, Machine
from native_builds import HAVE_SOURCES


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "native_builds"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def source_kernels(build_folder: Path) -> HostKernels:
    """The source of the kernels on the host executor."""
    if not HAVE_SOURCES:
        pytest.skip("needs the source tree and g++")
    return HostKernels(build_library(build_folder))


@pytest.fixture(scope="session")
def ptx_text(build_folder: Path) -> str:
    """The PTX of the kernels."""
    if ptx_build.MISSING:
        pytest.skip(ptx_build.MISSING)
    return ptx_build.compile_ptx(build_folder)


@pytest.fixture(scope="session")
def ptx_kernels(build_folder: Path, ptx_text: str) -> HostKernels:
    """The PTX of the kernels on the host executor."""
    return HostKernels(ptx_build.build_library(build_folder, ptx_text))


@pytest.fixture(scope="session", params=["source", "ptx"])
def kernels(request: pytest.FixtureRequest) -> HostKernels:
    """Both in turn: what is true of the kernels is true of what nvcc makes of them."""
    found: HostKernels = request.getfixturevalue(f"{request.param}_kernels")
    return found


@pytest.fixture(autouse=True)
def usual_options(request: pytest.FixtureRequest) -> None:
    """No test finds the schedule of another."""
    for name in ("kernels", "ptx_kernels"):
        if name in request.fixturenames:
            request.getfixturevalue(name).set_options()


@pytest.fixture
def fake(tmp_path: Path) -> Machine:
    if not SCRIPT.exists() or not all(map(shutil.which, TOOLS)):
        pytest.skip("needs the source tree and the tools of the script")
    return Machine(tmp_path)
