"""What an installed wheel must do where there is nothing but torch and NumPy; `python -I` runs it.

Values are compared with a spanning tree found here, by Kruskal's algorithm. What needs an extra
must say which.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import math
import sysconfig
from pathlib import Path

import numpy as np
import torch

import tsloss_fast
from tsloss_fast import TSLoss, barcode, cli, h0_persistence, reference

CORE = ("barcode", "cli", "distributed", "doctor", "functional", "loss", "reference")
EXTRAS = {"analysis": "analysis", "tuning": "tuning"}
# What each command is given that gets it as far as the first thing that it needs.
COMMANDS = {
    "tune": ("tuning", "--model", "smollm2", "--task", "boolean", "--out", "run"),
    "compare": ("tuning,study", "default", "--out", "run"),
    "analyze": ("analysis", "points.npy"),
    "plot": ("analysis", "barcode", "run", "-o", "barcode.png"),
    "report": ("analysis", "run"),
}


def install(extra: str) -> str:
    return f'pip install "tsloss-fast[{extra}]"'


def distances(points: np.ndarray) -> np.ndarray:
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))


def kruskal(points: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Lengths and edges of the minimum spanning tree, ties by the smaller indices."""
    lengths = distances(points)
    root = list(range(len(points)))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    every = sorted((lengths[i, j], i, j) for j in range(len(points)) for i in range(j))
    tree = []
    for length, i, j in every:
        if find(i) != find(j):
            root[find(i)] = find(j)
            tree.append((length, i, j))
    return np.array([edge[0] for edge in tree]), [edge[1:] for edge in tree]


def check_values() -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.standard_normal((n, d)) for n, d in ((2, 1), (20, 48), (70, 3), (130, 9))]
    for cloud in clouds:
        expected, tree = kruskal(cloud)
        points = torch.tensor(cloud, requires_grad=True)
        deaths, edges = h0_persistence(points)
        np.testing.assert_allclose(deaths.detach(), expected, rtol=1e-12)
        assert [tuple(edge) for edge in edges.tolist()] == tree
        weights = torch.arange(1.0, len(tree) + 1, dtype=torch.float64)
        (deaths * weights).sum().backward()
        gradient = np.zeros_like(cloud)
        for weight, length, (i, j) in zip(weights.tolist(), expected, tree, strict=True):
            step = weight * (cloud[i] - cloud[j]) / length
            gradient[i] += step
            gradient[j] -= step
        np.testing.assert_allclose(points.grad, gradient, rtol=1e-9, atol=1e-12)
        plain = reference.h0_persistence(points)
        np.testing.assert_allclose(plain.deaths.detach(), expected, rtol=1e-9)
        from_matrix = tsloss_fast.h0_persistence_from_distances(distances(cloud))
        np.testing.assert_array_equal(from_matrix.deaths, expected)
        total = barcode.total_persistence(deaths.detach(), p=1)
        assert math.isclose(total, expected.sum(), rel_tol=1e-12)

    flat = [cloud.reshape(-1, 1) for cloud in clouds]
    offsets = torch.tensor([0, *np.cumsum([len(cloud) for cloud in flat])])
    ragged = tsloss_fast.h0_persistence_varlen(torch.tensor(np.concatenate(flat)), offsets)
    expected = np.concatenate([kruskal(cloud)[0] for cloud in flat])
    np.testing.assert_allclose(ragged.deaths, expected, rtol=1e-9, atol=1e-15)


def check_loss() -> None:
    torch.manual_seed(0)
    for form in ("exact", "surrogate", "total"):
        prompt = torch.nn.Parameter(torch.randn(20, 32))
        loss = TSLoss(form=form)
        optimizer = torch.optim.SGD([prompt], lr=1e-3)
        values = []
        for _ in range(5):
            optimizer.zero_grad()
            value = loss(prompt)
            value.backward()
            optimizer.step()
            values.append(float(value.detach()))
        assert values[-1] < values[0], (form, values)


def check_what_is_installed() -> None:
    assert Path(tsloss_fast.__file__).is_relative_to(sysconfig.get_path("platlib"))
    version = importlib.metadata.version("tsloss-fast")
    assert tsloss_fast.__version__ == version, (tsloss_fast.__version__, version)
    for name in CORE:
        importlib.import_module(f"tsloss_fast.{name}")
    for name, extra in EXTRAS.items():
        said = install(extra)  # what the error must say, if there is one
        try:
            importlib.import_module(f"tsloss_fast.{name}")
        except ModuleNotFoundError as error:
            said = str(error)
        assert install(extra) in said, said


def check_commands() -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(["doctor"]) == 0
    assert tsloss_fast.__version__ in said.getvalue()
    print(said.getvalue())
    if any(importlib.util.find_spec(name) for name in ("pyarrow", "scipy", "matplotlib")):
        return  # with extras the tests say more
    for name, (extra, *arguments) in COMMANDS.items():
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            assert cli.main([name, *arguments]) == 1, name
        assert len(said.getvalue().splitlines()) == 1, said.getvalue()
        assert install(extra) in said.getvalue(), said.getvalue()


check_values()
check_loss()
check_what_is_installed()
check_commands()
print("self check: passed")
