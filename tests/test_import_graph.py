"""Imports point one way: no circles, and no layer knows the one above it.

The checks read the sources, so that an import inside a function or under TYPE_CHECKING counts like
any other. Each check takes the folder of a package, so a made-up package shows that it can fail.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tsloss_fast

PACKAGE = Path(tsloss_fast.__file__).parent
COMMANDS = {"cli", "doctor", "__main__"}
LAYERS = {"analysis", "tuning"}
# The imports that each layer must not have; the commands may import everything.
FORBIDDEN = {
    "core": LAYERS,
    "distributed": LAYERS | {"commands"},
    "analysis": {"tuning"},
}
# These folders are not layers: the benchmarks join the package when it is installed, and the
# documentation is not installed.
OUTSIDE = {"benchmarks", "docs"}
MOST_AT_THE_TOP = 13


def modules(package: Path) -> dict[str, Path]:
    """Return the file of each module by its dotted name. The native module has only a stub."""
    found = {}
    for file in sorted([*package.rglob("*.py"), *package.glob("*.pyi")]):
        parts = file.relative_to(package).with_suffix("").parts
        if parts[0] not in OUTSIDE:
            names = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package.name, *names))] = file
    return found


def imported(name: str, file: Path) -> Iterator[tuple[str, str]]:
    """Yield what a module imports as (module, name in it); the name is "" in `import module`.

    A string that is a dotted name of this package counts too, as `importlib` imports by it.
    """
    dotted = rf"{name.partition('.')[0]}(\.\w+)+"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((each.name, "") for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            # The first dot is the package that the module lies in, or is.
            place = name.split(".") + ["__init__"] * (file.stem == "__init__")
            above = place[: -node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ((module, each.name) for each in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(dotted, str(node.value)):
            yield str(node.value), ""


def import_graph(package: Path) -> dict[str, list[str]]:
    """Return, for each module, the other modules of the package that it imports.

    `from . import x` imports the module x where there is one, else the package's `__init__`. The
    benchmarks are one node, whichever of their modules is imported.
    """
    files = modules(package)
    benchmarks = f"{package.name}.benchmarks"
    graph = {}
    for name, file in files.items():
        others = set()
        for module, inner in imported(name, file):
            full = f"{module}.{inner}"
            if f"{full}.".startswith(f"{benchmarks}."):
                others.add(benchmarks)
            elif full in files or module in files:
                others.add(full if full in files else module)
        graph[name] = sorted(others - {name})
    return graph


def circles(package: Path) -> list[str]:
    """Return circles as "a -> b -> a", so many that there is none without their first imports."""
    graph, found = import_graph(package), []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]
            found.append(" -> ".join(circle))
            graph[circle[0]].remove(circle[1])
        else:
            return found


def layer(module: str) -> str:
    """Return the layer of a module: the folder below the package, or "commands", or "core" for the
    other modules at the top and for packages below them, such as `barcode`."""
    first = [*module.split("."), "__init__"][1]
    if first in COMMANDS:
        return "commands"
    return first if first in LAYERS | {"distributed", "benchmarks"} else "core"


def forbidden_imports(package: Path) -> list[str]:
    """Return the imports that `FORBIDDEN` has, as "a -> b"."""
    return [
        f"{name} -> {other}"
        for name, others in import_graph(package).items()
        for other in others
        if layer(other) in FORBIDDEN.get(layer(name), ())
    ]


def imports_of_benchmarks(package: Path) -> list[str]:
    """Return the modules that import the benchmarks, except `cli`, which starts them."""
    return [
        name
        for name, others in import_graph(package).items()
        if f"{package.name}.benchmarks" in others and name != f"{package.name}.cli"
    ]


def modules_at_the_top(package: Path) -> list[str]:
    """Return the modules that lie directly in the package, `__init__` among them, except `cli` and
    `doctor`."""
    return sorted({file.stem for file in package.glob("*.py")} - {"cli", "doctor"})


def test_no_imports_form_a_circle() -> None:
    found = circles(PACKAGE)
    assert not found, "modules import each other:\n" + "\n".join(found)


def test_no_layer_imports_one_that_it_must_not_know() -> None:
    found = forbidden_imports(PACKAGE)
    assert not found, "imports of a layer that must not be known:\n" + "\n".join(found)


def test_the_package_imports_nothing_of_the_benchmarks_but_to_start_them() -> None:
    assert imports_of_benchmarks(PACKAGE) == []


def test_few_modules_lie_at_the_top() -> None:
    found = modules_at_the_top(PACKAGE)
    assert len(found) <= MOST_AT_THE_TOP, f"{len(found)} modules: {', '.join(found)}"


def test_every_module_is_seen() -> None:
    """Otherwise the checks above could pass because they read nothing."""
    graph = import_graph(PACKAGE)
    assert {layer(name) for name in graph} == {"core", "distributed", "commands", *LAYERS}
    assert any("tsloss_fast._core" in others for others in graph.values())
    assert "tsloss_fast.benchmarks" in graph["tsloss_fast.cli"]
    assert sum(map(len, graph.values())) > len(graph) > 50


def make_package(folder: Path, sources: dict[str, str]) -> Path:
    """Write a package called `made`, in which each module has one source line."""
    package = folder / "made"
    for name, line in {"__init__": "", **sources}.items():
        file = package / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{line}\n", encoding="utf-8")
        (file.parent / "__init__.py").touch()
    return package


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        ({"a": "from .b import x", "b": "import made.a"}, "made.a -> made.b -> made.a"),
        (
            {"a": "from . import b", "b": "from made import c", "c": "from .a import x"},
            "made.a -> made.b -> made.c -> made.a",
        ),
        ({"a": "def f():\n from . import b", "b": "from . import a"}, "made.a -> made.b -> made.a"),
        (
            {"a": "if TYPE_CHECKING:\n from .b import X", "b": "from .a import y"},
            "made.a -> made.b -> made.a",
        ),
        (
            {"p/a": "from ..b import x", "b": "importlib.import_module('made.p.a')"},
            "made.b -> made.p.a -> made.b",
        ),
        ({"__init__": "from .a import x", "a": "from . import x"}, "made -> made.a -> made"),
        ({"p/__init__": "from . import a", "p/a": "from made.p import x"}, "made.p -> made.p.a"),
    ],
)
def test_a_circle_is_named(tmp_path: Path, sources: dict[str, str], circle: str) -> None:
    (found,) = circles(make_package(tmp_path, sources))
    steps = found.split(" -> ")
    assert steps[0] == steps[-1]
    # It may begin anywhere.
    assert circle in found + found[len(steps[0]) :]


@pytest.mark.parametrize(
    "sources",
    [
        {"a": "from . import b, x", "b": "from .c import y", "c": "import other.a, torch"},
        {"__init__": "from . import a", "a": "from . import b", "b": ""},
        {"p/__init__": "NAME = 'made.p'", "p/a": "from .. import p"},
        {"a": "'see made.b for more'", "b": "from . import a"},
    ],
)
def test_imports_without_a_circle_pass(tmp_path: Path, sources: dict[str, str]) -> None:
    assert circles(make_package(tmp_path, sources)) == []


@pytest.mark.parametrize(
    ("module", "line", "other"),
    [
        ("analysis.a", "from made.tuning import x", "tuning"),
        ("analysis.a", "from ..tuning.b import x", "tuning.b"),
        ("analysis.a", "home = 'made.tuning'", "tuning"),
        ("a", "from .analysis import b", "analysis.b"),
        ("a", "import made.tuning.b as b", "tuning.b"),
        ("barcode.a", "from made import tuning", "tuning"),
        ("distributed.a", "from .. import doctor", "doctor"),
        ("distributed.a", "from ..analysis import b", "analysis.b"),
    ],
)
def test_an_import_of_a_higher_layer_is_found(
    tmp_path: Path, module: str, line: str, other: str
) -> None:
    layers = dict.fromkeys(("analysis/b", "tuning/b", "doctor"), "")
    package = make_package(tmp_path, {**layers, module.replace(".", "/"): line})
    assert forbidden_imports(package) == [f"made.{module} -> made.{other}"]


def test_imports_of_lower_layers_pass(tmp_path: Path) -> None:
    sources = {
        "cli": "from . import doctor, tuning",
        "doctor": "from . import tuning",
        "tuning/a": "from made import analysis, distributed, doctor, x",
        "analysis/a": "from .. import core, distributed",
        "distributed/a": "from ..core import x",
        "core": "",
    }
    assert forbidden_imports(make_package(tmp_path, sources)) == []


@pytest.mark.parametrize(
    "line",
    [
        "from made.benchmarks.speed import run",
        "from . import benchmarks",
        "import made.benchmarks",
        "home = 'made.benchmarks.speed'",
    ],
)
def test_an_import_of_the_benchmarks_is_found(tmp_path: Path, line: str) -> None:
    sources = {"a": line, "cli": line, "b": "from . import benchmarks_of_ours"}
    assert imports_of_benchmarks(make_package(tmp_path, sources)) == ["made.a"]


def test_modules_at_the_top_are_counted_with_the_first_one(tmp_path: Path) -> None:
    sources = dict.fromkeys(("cli", "doctor", "__main__", "_a", "b", "p/c"), "")
    assert modules_at_the_top(make_package(tmp_path, sources)) == [
        "__init__",
        "__main__",
        "_a",
        "b",
    ]


def test_the_packages_are_imported_without_what_is_slow() -> None:
    pytest.importorskip("peft", reason="needs the extra tuning")
    code = (
        "import sys, tsloss_fast.analysis.lazy, tsloss_fast.analysis, tsloss_fast.tuning; "
        "print(sorted({'matplotlib', 'transformers', 'peft', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
