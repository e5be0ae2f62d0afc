"""Hashes of the edges and deaths of fixed clouds: the same in every release, on every instruction
set, by every path and with any number of threads.

Coordinates are small integers, so distances are exact, ties are ties, and there is one tree under
the order (length, i, j). They come from arithmetic, not from a generator that may change.
``python tests/test_expected_hashes.py`` prints those of the tree that Kruskal's algorithm finds in
NumPy, from which the file was made: nothing of ours takes part.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import Array, exact_distances, kruskal

FILE = Path(__file__).with_name("expected_hashes.json")
METRICS = ("euclidean", "sqeuclidean", "manhattan")
# Points, dimensions, and how many values a coordinate has.
SHAPES = (
    (2, 1, 5),
    (17, 3, 4),
    (64, 8, 7),
    (65, 33, 3),
    (100, 2, 9),
    (130, 64, 23),
    (300, 16, 5),
    (700, 200, 11),
    (1100, 3, 13),
)


def cloud(n: int, d: int, values: int) -> Array:
    i, k = np.arange(n)[:, None], np.arange(d)
    state = (i * 7919 + k * 104729 + i * i * 31 + i * k * 17 + k * k * 13) % 1000003
    for _ in range(3):
        state = (state * 48271 + 11) % 2147483647
    return (state // 1000 % values).astype(np.float64)


def name(shape: tuple[int, int, int], metric: str) -> str:
    return f"{'x'.join(map(str, shape))} {metric}"


def digest(deaths: Array, edges: Array) -> str:
    """Of the deaths in float32 and the edges, little-endian."""
    h = hashlib.sha256(np.ascontiguousarray(deaths, "<f4").tobytes())
    h.update(np.ascontiguousarray(edges, "<i8").tobytes())
    return h.hexdigest()


def oracle(shape: tuple[int, int, int], metric: str) -> str:
    square = exact_distances(cloud(*shape), "sqeuclidean" if metric == "euclidean" else metric)
    keys, edges = kruskal(square)
    deaths = keys.astype(np.float64)
    return digest(np.sqrt(deaths) if metric == "euclidean" else deaths, edges)


@pytest.mark.usefixtures("core_defaults")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_edges_and_deaths_have_the_expected_hash(shape: tuple[int, int, int], metric: str) -> None:
    from tsloss_fast import _core, h0_persistence

    expected = json.loads(FILE.read_text(encoding="utf-8"))[name(shape, metric)]
    points = cloud(*shape).astype(np.float32)
    for isa in _core.supported_isas():
        _core.set_isa(isa)
        for path in ((), (1,), (2,), (3, 0, 0, 0), (3, 0, 0, 1), (3, 2, 3, 1, 99), (4,)):
            _core.set_overrides(*path)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                h0 = h0_persistence(points, metric)
                assert digest(h0.deaths, h0.edges) == expected, f"{isa}, {path}, {threads}"


def test_the_file_has_the_hashes_of_the_oracle() -> None:
    expected = json.loads(FILE.read_text(encoding="utf-8"))
    assert len(expected) == len(SHAPES) * len(METRICS)
    for shape in SHAPES[:-2]:
        for metric in METRICS:
            assert expected[name(shape, metric)] == oracle(shape, metric)


if __name__ == "__main__":
    made = {name(shape, metric): oracle(shape, metric) for shape in SHAPES for metric in METRICS}
    json.dump(made, sys.stdout, indent=1)
    print()
