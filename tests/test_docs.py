"""The documentation is complete, builds without a warning, and shows what the code really does."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import tsloss_fast

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "tsloss_fast/docs"
PACKAGE = Path(tsloss_fast.__file__).parent

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="needs the source tree")

# Packages whose public names are those of `__all__`, whichever module they come from.
PACKAGES = (
    "tsloss_fast",
    "tsloss_fast.analysis",
    "tsloss_fast.barcode",
    "tsloss_fast.distributed",
    "tsloss_fast.doctor",
    "tsloss_fast.reference",
    "tsloss_fast.tuning",
)
# Modules at the top whose names are public under another one, or that are commands.
ELSEWHERE = {"benchmarks", "cli", "functional", "loss", "ragged"}

# What a newcomer meets first: each has an example of its own.
MAIN_NAMES = (
    "tsloss_fast.H0Persistence",
    "tsloss_fast.TSLoss",
    "tsloss_fast.h0_persistence",
    "tsloss_fast.h0_persistence_from_distances",
    "tsloss_fast.h0_persistence_varlen",
    "tsloss_fast.progress",
    *(f"tsloss_fast.barcode.{name}" for name in tsloss_fast.barcode.__all__),
    "tsloss_fast.analysis.RipsH0",
    "tsloss_fast.analysis.TopologyTracker",
    "tsloss_fast.analysis.Vocabulary",
    "tsloss_fast.analysis.from_gudhi",
    "tsloss_fast.analysis.h0_diagram",
    "tsloss_fast.analysis.h1_diagram",
    "tsloss_fast.analysis.measure",
    "tsloss_fast.analysis.plot_barcode",
    "tsloss_fast.analysis.to_gudhi",
    "tsloss_fast.distributed.h0_persistence",
    "tsloss_fast.doctor.report",
    "tsloss_fast.reference.h0_persistence",
    "tsloss_fast.reference.h0_persistence_from_distances",
    "tsloss_fast.tuning.PromptTopologyCallback",
    "tsloss_fast.tuning.TSLossTrainer",
    "tsloss_fast.tuning.add_soft_prompt",
    "tsloss_fast.tuning.cloud_names",
    "tsloss_fast.tuning.initial_prompt",
    "tsloss_fast.tuning.load_task",
    "tsloss_fast.tuning.prompt_clouds",
    "tsloss_fast.tuning.save_prompt_encoder",
)


def module_of(name: str) -> ModuleType:
    for part, needed in (("tuning", "peft"), ("analysis", "sklearn")):
        if name.startswith(f"tsloss_fast.{part}"):
            pytest.importorskip(needed, reason="needs the extras tuning and analysis")
    return importlib.import_module(name)


def named(name: str) -> Any:
    home, _, last = name.rpartition(".")
    return getattr(module_of(home), last)


def public_names() -> list[str]:
    """Functions, classes and modules; constants may do without a page."""
    names = [f"{package}.{name}" for package in PACKAGES for name in module_of(package).__all__]
    return [name for name in names if callable(named(name)) or inspect.ismodule(named(name))]


def examples_of(name: str) -> list[doctest.DocTest]:
    """Of an object and its methods, whichever module it was made in."""
    thing = named(name)
    if inspect.ismodule(thing):
        return []
    home = sys.modules[inspect.unwrap(thing).__module__]
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = finder.find(thing, name, module=False, globs=dict(vars(home)))  # type: ignore[arg-type]
    return [test for test in found if test.examples]


def failures(tests: list[doctest.DocTest]) -> str:
    report: list[str] = []
    write: Callable[[str], Any] = report.append
    with torch.random.fork_rng(devices=[]):
        runner = doctest.DocTestRunner(verbose=False)
        for test in tests:
            runner.run(test, out=write)
    return "".join(report)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, no window, and nothing printed by what the examples import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def test_every_module_at_the_top_is_public_here_or_somewhere_else() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    public = {name for name in files | folders if not name.startswith("_")}
    documented = {name.split(".")[1] for name in PACKAGES if "." in name}
    assert public - ELSEWHERE == documented


@pytest.mark.parametrize("name", MAIN_NAMES)
def test_a_main_name_has_an_example_that_runs_as_printed(name: str, quiet: None) -> None:
    tests = examples_of(name)
    assert tests, f"the docstring of {name} has no example"
    assert not failures(tests), failures(tests)


def test_all_other_examples_run_as_printed(quiet: None) -> None:
    rest = [name for name in public_names() if name not in MAIN_NAMES]
    assert not failures([test for name in rest for test in examples_of(name)])


def test_every_example_of_the_package_stands_where_the_tests_look() -> None:
    """Those of names that are not public would be run by nobody."""
    looked_at = sum(len(test.examples) for name in public_names() for test in examples_of(name))
    written = sum(
        len(doctest.DocTestParser().get_examples(text))
        for file in PACKAGE.rglob("*.py")
        for text in docstrings(file)
    )
    assert looked_at == written > 100


def docstrings(file: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, kinds)]
    return [ast.get_docstring(node, clean=False) or "" for node in nodes]


def test_every_parameter_of_a_public_function_is_explained() -> None:
    """By its docstring, or by its module's where that speaks for all."""
    missing = []
    for name in public_names():
        thing = named(name)
        if not inspect.isfunction(thing):
            continue
        home = sys.modules[inspect.unwrap(thing).__module__]
        text = f"{thing.__doc__} {home.__doc__}"
        missing += [
            f"{name}: {parameter}"
            for parameter in inspect.signature(thing).parameters
            if not re.search(rf"\b{parameter}\b", text)
        ]
    assert not missing


def test_the_tests_that_the_mathematics_names_exist() -> None:
    text = (DOCS / "mathematics.md").read_text("utf-8")
    found = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(found) > 30
    for file, name in found:
        assert f"\ndef {name}(" in (ROOT / file).read_text("utf-8"), f"{file}::{name}"


def test_the_sources_that_the_mathematics_cites_are_listed() -> None:
    text, _, sources = (DOCS / "mathematics.md").read_text("utf-8").partition("## Sources")
    cited = re.findall(r"([A-Z][\w-]+)(?:(?:,| and) [^;\[\]]*?| et al\.)? (\d{4})", flat(text))
    assert len(cited) > 15
    entries = re.findall(r"^- ((?:.|\n  )+)", sources, re.M)
    for author, year in cited:
        assert any(re.match(rf"{author}\b.*{year}", e, re.S) for e in entries), (author, year)


def flat(text: str) -> str:
    """What stands between square brackets, one line."""
    parts = re.findall(r"\[([^\]]*\d{4}[^\]]*)\]", text)
    return "; ".join(" ".join(part.split()) for part in parts)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` runs, into another folder."""
    for needed in ("sphinx", "furo", "myst_parser", "sphinx_gallery"):
        pytest.importorskip(needed, reason="needs the extra docs")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(r"^docs: venv\n\t\$\(BIN\)/python (.*)$", makefile, re.M)
    assert recipe is not None
    options = shlex.split(recipe[1])
    assert {"-n", "-W", "build/docs"} < set(options)
    out = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, *options[:-1], str(out)],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_every_public_name_has_its_place_in_the_reference(pages: Path) -> None:
    inventory = (pages / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    there = {line.split(" ")[0] for line in lines if " py:" in line}
    assert not set(public_names()) - there


@pytest.mark.slow
def test_the_page_of_the_tutorial_shows_what_it_printed(pages: Path) -> None:
    page = (pages / "gallery/tutorial.html").read_text("utf-8")
    text = re.sub(r"<[^>]*>", "", page)
    for printed in ("gradcheck: True", "the same bits: True", "the last three: [1.06"):
        assert printed in text
    (difference,) = re.findall(r"largest difference from GUDHI: (\S+)", text)
    assert float(difference) < 1e-12
    spread = dict(re.findall(r"(alone|TSLoss) +coefficient of variation \S+ -&gt; (\d\.\d+)", text))
    assert float(spread["TSLoss"]) < 0.1 < float(spread["alone"])
    assert "not shown to improve accuracy" in text
    assert len(list((pages / "_images").glob("sphx_glr_tutorial_*.png"))) >= 2
    # It writes into a temporary folder alone.
    left = {path.name for path in (DOCS / "tutorial").iterdir()} - {"__pycache__"}
    assert left == {"GALLERY_HEADER.rst", "tutorial.py"}
