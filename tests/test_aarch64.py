"""The core on aarch64, cross-compiled and run by an emulator: the bits are those of the core at
hand.

What is executed is csrc/cpu, by a native program that reads batches from a file (native/calls.cpp),
and the programs of test_sanitizers.py, which have oracles of their own. No Python runs there. The
emulator has the memory order of the processor at hand, so it cannot show a missing barrier.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clouds import FLOATS, catalogue, dissimilarities, gaussian, rng
from drawn_clouds import EXAMPLES, clouds
from hypothesis import given
from native_build import AARCH64, CMAKE, FUZZ, Core, build_core_for_aarch64, unpack_corpus
from numpy.typing import NDArray
from oracles import METRICS, Array
from source_tree import ROOT
from test_expected_hashes import FILE, SHAPES, cloud, digest, name
from test_expected_hashes import METRICS as HASHED_METRICS
from test_extremes import fused_loss
from test_paths import DENSE, KINDS, LARGE_WAYS
from torch import Tensor

from tsloss_fast import _core

EMULATOR = "qemu-aarch64"
NEEDED = {AARCH64: "g++-aarch64-linux-gnu", EMULATOR: "qemu-user"}  # programs, Debian packages
MISSING = [package for program, package in NEEDED.items() if not shutil.which(program)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ROOT / "csrc/cpu").is_dir() or not CMAKE, reason="needs the source tree and cmake"
    ),
    pytest.mark.skipif(
        bool(MISSING), reason=f"needs the Debian packages {' and '.join(NEEDED.values())}"
    ),
    pytest.mark.usefixtures("core_defaults"),
]

MATRICES = "distance matrices"  # in place of a metric
WHOLE, PADDED, RAGGED = 0, 1, 2
# The arguments of `_core.set_overrides`, and a number of threads: the path that thresholds choose,
# and each path of test_paths.py.
AUTOMATIC = (0, 0, 0, -1, 0, 2)
FORCED = [
    (way.path, way.sample_one_in, way.wave_one_in, way.coded, way.seed, 1 + k % 3)
    for k, way in enumerate((*DENSE, *LARGE_WAYS))
]
# The weights of the loss and its rho, and the tolerance of mirror images, are those that
# native/calls.cpp has.
LOSS = (0.75, 0.25, 0.5)
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Batch:
    """Points (B, N, D), or (R, D) with offsets, or distance matrices (B, N, N)."""

    name: str
    metric: str
    values: Tensor
    lengths: Tensor | None = None
    offsets: Tensor | None = None
    ways: Sequence[tuple[int, ...]] = (AUTOMATIC, *FORCED)

    @property
    def layout(self) -> int:
        return PADDED if self.lengths is not None else RAGGED if self.offsets is not None else WHOLE

    @property
    def bars(self) -> tuple[int, ...]:
        """The shape of the deaths."""
        if self.offsets is None:
            return (len(self.values), max(self.values.shape[1] - 1, 0))
        return (int((self.offsets.diff() - 1).clamp(min=0).sum()),)

    @property
    def grad_deaths(self) -> Tensor:
        """Any numbers."""
        grad = rng(len(self.values)).standard_normal(self.bars)
        return torch.from_numpy(grad).to(self.values.dtype)

    def encoded(self) -> bytes:
        """The batch as native/calls.cpp reads it."""
        sizes = self.lengths if self.lengths is not None else self.offsets
        if self.offsets is None:
            batch, points, dim = self.values.shape
            rows = batch * points
        else:
            batch, points = len(self.offsets) - 1, int(self.offsets.diff().max())
            rows, dim = self.values.shape
        header = [
            *(int(self.values.dtype == torch.float64), number_of(self.metric), self.layout),
            *(batch, points, dim, rows, len(self.ways)),
        ]
        parts = [
            torch.tensor(header),
            torch.tensor(self.ways),
            sizes,
            self.values,
            self.grad_deaths,
        ]
        return b"".join(part.numpy().tobytes() for part in parts if part is not None)

    def tree(self) -> dict[str, Tensor]:
        """The barcode from the core at hand."""
        if self.metric == MATRICES:
            found = _core.h0_from_distances(self.values, self.lengths, TOLERANCE, 1)
        else:
            metric = number_of(self.metric)
            found = _core.h0_forward(metric, self.values, self.lengths, self.offsets, 1)
        deaths, edges, finding = found
        finding = torch.tensor(finding or (0, -1, -1, -1))
        return {"finding": finding, "deaths": deaths, "edges": edges}

    def of_tree(self, deaths: Tensor, edges: Tensor) -> dict[str, Tensor]:
        """Other results of native/calls.cpp, in its order."""
        results = {}
        if self.metric != MATRICES:
            metric = number_of(self.metric)
            results["gradient"] = _core.h0_backward(
                metric, self.grad_deaths, self.values, self.offsets, deaths, edges, 1
            )
        if self.layout == WHOLE:
            merges = torch.empty(*self.bars, 3, dtype=torch.int64)
            _core.single_linkage(edges, merges)
            results["linkage"] = merges
        if self.layout != RAGGED:
            terms = ("loss", "spread", "shortness")
            values, grads, coincident = fused_loss(deaths, self.lengths, LOSS)
            results["number of coincident clouds"] = torch.tensor([coincident])
            results |= zip(terms, values, strict=True)
            results |= zip((f"derivative of {term}" for term in terms), grads, strict=True)
        return results


def number_of(metric: str) -> int:
    return -1 if metric == MATRICES else METRICS.index(metric)


class Results:
    """Arrays, one behind the other."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def next(self, like: Tensor) -> NDArray:
        """An array of the type and shape of a tensor."""
        size = like.numel() * like.itemsize
        array = np.frombuffer(self._data[:size], like.numpy().dtype).reshape(like.shape)
        self._data = self._data[size:]
        return array

    def __len__(self) -> int:
        """Number of bytes that are left."""
        return len(self._data)


class Emulated:
    """The core for aarch64, built in a folder, and the runs of programs with it."""

    def __init__(self, folder: Path) -> None:
        self.core: Core = build_core_for_aarch64(folder)

    def output(self, program: Path, *arguments: object) -> str:
        """Return the text that a program prints, and fail if it does not end well."""
        done = subprocess.run(
            [EMULATOR, str(program), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
            cwd=self.core.folder,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        assert done.stderr == ""
        return done.stdout

    def results(self, batches: list[Batch]) -> Results:
        """The results of native/calls.cpp."""
        program = self.core.program("calls", ["calls.cpp"])
        source, target = self.core.folder / "batches", self.core.folder / "results"
        source.write_bytes(b"".join(batch.encoded() for batch in batches))
        assert self.output(program, source, target) == f"{len(batches)} batches\n"
        return Results(target.read_bytes())


@pytest.fixture(scope="module")
def aarch64(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    pytest.importorskip("pybind11")
    return Emulated(tmp_path_factory.mktemp("aarch64"))


def same_numbers(a: NDArray, b: NDArray) -> bool:
    """Whether all bits agree, but for those of NaN, whose sign differs on x86."""
    if a.dtype.kind == "f":
        whole = f"i{a.itemsize}"
        return bool(((a.view(whole) == b.view(whole)) | (np.isnan(a) & np.isnan(b))).all())
    return bool((a == b).all())


def assert_same(results: Results, expected: dict[str, Tensor], message: str) -> None:
    for what, tensor in expected.items():
        same = same_numbers(results.next(tensor), tensor.numpy())
        assert same, f"{message}: {what}"


def points_batch(what: str, points: Array, metric: str) -> Batch:
    return Batch(f"{what} {points.dtype} {metric}", metric, torch.from_numpy(np.array([points])))


def ugly_clouds(dtype: type) -> Iterator[Batch]:
    """Each on two of the forced paths in turn, for want of time."""
    ways = itertools.cycle(FORCED)
    for ugly in catalogue(dtype):
        for metric in METRICS:
            batch = points_batch(ugly.name, ugly.points, metric)
            yield replace(batch, ways=(AUTOMATIC, next(ways), next(ways)))


def drawn_clouds() -> Iterator[Batch]:
    found: list[Array] = []

    @EXAMPLES
    @given(clouds())
    def collect(points: Array) -> None:
        found.append(points)

    collect()
    for k, points in enumerate(found):
        for metric in METRICS:
            yield points_batch(f"drawn {k}", points, metric)


def clouds_for_each_path() -> Iterator[Batch]:
    """The clouds of test_paths.py have several panels and tiles."""
    for kind, make in KINDS.items():
        for d in (2, 17, 65):
            for dtype in FLOATS:
                yield points_batch(f"{kind} {d}", make(110 + d, d).astype(dtype), "euclidean")
        yield points_batch(kind, make(150, 17).astype(np.float32), "cosine")
        yield points_batch(kind, make(150, 17).astype(np.float32), "manhattan")


def ends_of_panels_and_tiles() -> Iterator[Batch]:
    for n in (47, 48, 49, 95, 96, 97, 143, 144, 145, 161):
        for d in (3, 40, 65):
            for dtype in FLOATS:
                yield points_batch(f"Gaussian {n}x{d}", gaussian(n, d, 5, dtype), "euclidean")


def padded_and_ragged_batches() -> Iterator[Batch]:
    """Some clouds of the batch are empty, one is bad, and one leaves the range of squares."""
    sizes = torch.tensor([40, 0, 1, 17, 130, 2, 3, 40])
    for dtype in FLOATS:
        for d in (0, 3, 33):
            points = np.stack([gaussian(130, d, seed, dtype) for seed in range(len(sizes))])
            points[3] *= dtype(1e-30 if dtype is np.float32 else 1e-200)
            points[6] = 0
            points[7, 5] = np.nan
            x = torch.from_numpy(points)
            ragged = torch.cat([cloud[:n] for cloud, n in zip(x, sizes, strict=True)])
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
            for metric in METRICS:
                what = f"{dtype.__name__} {d} {metric}"
                yield Batch(f"padded {what}", metric, x, lengths=sizes)
                yield Batch(f"ragged {what}", metric, ragged, offsets=offsets)
                yield Batch(f"whole {what}", metric, x[:, :40].contiguous())
    yield Batch("no cloud", "euclidean", torch.zeros(0, 5, 3))
    yield Batch("no point", "euclidean", torch.zeros(3, 0, 3), lengths=torch.zeros(3).long())


def distance_matrices() -> Iterator[Batch]:
    for dtype in FLOATS:
        for n in (0, 1, 2, 17, 48, 65, 150):
            for levels in (None, 5):
                matrices = [dissimilarities(n, seed, dtype, levels) for seed in range(3)]
                matrices[2][: n // 2, n // 2 :] = np.inf
                matrices[2][n // 2 :, : n // 2] = np.inf
                matrices[1] *= 1 + np.triu(np.full((n, n), 1e-10), 1).astype(dtype)
                x = torch.from_numpy(np.stack(matrices))
                what = f"{dtype.__name__} {n} {levels}"
                yield Batch(what, MATRICES, x)
                yield Batch(f"padded {what}", MATRICES, x, lengths=torch.tensor([n, n // 2, n]))


GROUPS: dict[str, Callable[[], Iterable[Batch]]] = {
    "ugly clouds in float32": lambda: ugly_clouds(np.float32),
    "ugly clouds in float64": lambda: ugly_clouds(np.float64),
    "drawn clouds": drawn_clouds,
    "clouds for each path": clouds_for_each_path,
    "ends of panels and tiles": ends_of_panels_and_tiles,
    "padded and ragged batches": padded_and_ragged_batches,
    "distance matrices": distance_matrices,
}


@pytest.mark.parametrize("group", GROUPS)
def test_deaths_edges_gradients_linkage_and_loss_have_the_same_bits(
    group: str, aarch64: Emulated
) -> None:
    batches = list(GROUPS[group]())
    results = aarch64.results(batches)
    for batch in batches:
        tree = batch.tree()
        for way in batch.ways:
            assert_same(results, tree, f"{batch.name} on {way}")
        assert_same(results, batch.of_tree(tree["deaths"], tree["edges"]), batch.name)
    assert len(results) == 0


def test_edges_and_deaths_have_the_expected_hashes(aarch64: Emulated) -> None:
    expected = json.loads(FILE.read_text(encoding="utf-8"))
    for shape in SHAPES:
        for metric in HASHED_METRICS:
            batch = points_batch("", cloud(*shape).astype(np.float32), metric)
            results, tree = aarch64.results([batch]), batch.tree()
            for way in batch.ways:
                _, deaths, edges = map(results.next, tree.values())
                assert digest(deaths, edges) == expected[name(shape, metric)], (shape, metric, way)


def test_several_callers_get_the_same_bits_for_any_number_of_threads(aarch64: Emulated) -> None:
    program = aarch64.core.program("stress", ["stress.cpp"])
    assert aarch64.output(program, 1) == "same bits for any number of threads\n"


def test_inputs_that_a_fuzzer_found_give_right_results(aarch64: Emulated) -> None:
    program = aarch64.core.program("fuzz", [*FUZZ, "fuzz_driver.cpp"])
    count = unpack_corpus(aarch64.core.folder / "known")
    printed = aarch64.output(program, aarch64.core.folder / "known", 20)
    assert printed == f"{count} inputs and 20 mutations\n"
