"""One version everywhere, labels that are kept, and a lock of what constraints.txt pins."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from native_build import configure
from source_tree import ROOT, load_module

import tsloss_fast
from tsloss_fast import _core, doctor

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

source_tree = pytest.mark.skipif(
    not (ROOT / ".ci/requirements.lock").exists(), reason="needs the source tree"
)


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def provider() -> ModuleType:
    return load_module("version_label", ROOT / "csrc" / "version_label.py")


def test_the_version_is_that_of_the_metadata() -> None:
    assert tsloss_fast.__version__ == importlib.metadata.version("tsloss-fast")


@source_tree
def test_the_version_is_the_one_in_pyproject() -> None:
    assert (
        tsloss_fast.__version__.partition("+")[0]
        == (pyproject()["tool"]["dynamic-metadata"][0]["version"])
    )


def test_the_doctor_names_the_variant_and_a_module_left_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_core, "has_cuda", False)
    assert doctor.report()["variant"] == "CPU"
    assert doctor.report()["tsloss-fast"] == tsloss_fast.__version__
    monkeypatch.setattr(_core, "has_cuda", True)
    monkeypatch.setattr(_core, "cuda_toolkit", "13.0.88")
    monkeypatch.setattr(_core, "version", "0.0.9")
    assert doctor.report()["variant"] == "CUDA 13.0"
    assert "with the native module of 0.0.9: install it again" in doctor.report()["tsloss-fast"]


@source_tree
@pytest.mark.parametrize(
    ("state", "label", "version"),
    [
        ("wheel", "", "1.2"),
        ("wheel", "cu130", "1.2+cu130"),
        ("metadata_wheel", "cu128", "1.2+cu128"),
        ("sdist", "cu130", "1.2"),
    ],
)
def test_wheels_are_labelled_and_source_distributions_are_not(
    provider: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    label: str,
    version: str,
) -> None:
    monkeypatch.setenv("TSLOSS_LABEL", label)
    provider.build_state(state)
    assert provider.dynamic_metadata({"version": "1.2"}, {}) == {"version": version}


@source_tree
def test_a_label_that_is_none_is_refused(
    provider: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSLOSS_LABEL", "cuda")
    with pytest.raises(ValueError, match="such as cu130; got 'cuda'"):
        provider.dynamic_metadata({"version": "1.2"}, {})


@source_tree
@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_a_label_that_the_build_does_not_keep_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pybind11")
    done = configure(tmp_path, "TSLOSS_CUDA=OFF", "SKBUILD_PROJECT_VERSION_FULL=1.2+cu130")
    assert done.returncode != 0
    assert "TSLOSS_LABEL=cu130 needs TSLOSS_CUDA=ON" in " ".join(done.stderr.split())


@source_tree
@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_a_word_that_is_no_choice_of_cuda_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pybind11")
    done = configure(tmp_path, "TSLOSS_CUDA=AUTO")
    assert done.returncode != 0
    assert "TSLOSS_CUDA=AUTO: expected ON" in " ".join(done.stderr.split())


@source_tree
def test_the_lock_is_that_of_the_constraints() -> None:
    lock = (ROOT / ".ci/requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(
        r"^([\w.-]+)==([^;\s]+)", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE
    )
    locked = re.findall(
        r"^([\w.-]+)==(\S+)(?: ; [^\n]*)? \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.M
    )
    assert sorted(locked) == sorted(pin for pin in pins if pin[0] != "torch"), "run make lock"
    assert not re.search(r"https?:|--(?:extra-)?index|--find-links", lock)
    listed = (ROOT / "DEPENDENCIES.md").read_text("utf-8")
    assert all(f"| {name} | {version} |" in listed for name, version in pins), "run make lock"


@source_tree
def test_everything_that_is_required_is_pinned() -> None:
    """Else it would be missing where the lock alone is installed."""
    project = pyproject()["project"]
    extras = project["optional-dependencies"].values()
    required = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in required}
    pins = set(
        re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    )
    assert names <= pins
