"""Runs for the tests of reports: random clouds that drift, with logs as `tsloss tune` writes them,
and a vocabulary whose tokens are as nasty as tokens can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tsloss_fast.analysis.record.tracker import TopologyTracker
from tsloss_fast.analysis.vocabulary.nearest import Vocabulary

HOSTILE = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "</script><b>",
    "a&amp;b & 'c' \"d\"",
    "שלום",
    "\u202eevil\u2066",
    "🙂👩\u200d🚀",
    "line\nbreak\tand\x00nul",
    "%{x} $x^2$",
    " leading",
    "<a href='javascript:window.hacked=1'>x</a>",
    "\\",
)
STEPS = range(0, 41, 5)


def drift(points: Tensor, step: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + step)
    return points + 0.1 * torch.randn(points.shape, generator=generator, dtype=points.dtype)


def start(clouds: int, points: int, features: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(clouds, points, features, generator=generator, dtype=torch.float64)


def make_run(
    folder: Path,
    *,
    loss: str = "tsloss",
    seed: int = 0,
    steps: Sequence[int] = STEPS,
    clouds: Sequence[str] = ("prompt",),
    points: int = 12,
    features: int = 16,
    h1_every: int | None = 20,
    model: str | None = "tiny",
) -> Path:
    """A tracked run; all runs start from the same points."""
    folder.mkdir(parents=True)
    x = start(len(clouds), points, features)
    with TopologyTracker(folder, points_every=10, h1_every=h1_every, clouds=clouds) as tracker:
        for step in steps:
            x = drift(x, step, seed + 50 * (loss == "ce"))
            # From the middle on two tokens of the first cloud nearly coincide.
            if points > 5 and step >= steps[len(steps) // 2] and loss != "ce":
                x[0, 5] = x[0, 2] + 0.001
            tracker.record(step, x)
    config = {"loss": loss, "weight": 10.0, "task": "boolean", "seed": seed}
    config |= {} if model is None else {"model": model}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    lines: list[dict[str, object]] = [
        {"kind": "reference", "majority_rate": 0.6, "zero_shot_restricted_accuracy": 0.5}
    ]
    for step in steps:
        lines.append({"kind": "step", "step": step, "ce": 3.0 / (step + 1), "tsloss": 0.1})
        accuracy = 0.1 + 0.02 * step - 0.001 * seed * step
        lines.append({"kind": "eval", "step": step, "accuracy": accuracy, "ce": 2 / (step + 1)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def make_pair(folder: Path) -> Path:
    """A run and its control."""
    make_run(folder)
    make_run(folder / "control", loss="ce")
    return folder


def make_seeds(folder: Path, seeds: int) -> Path:
    """Runs of several seeds, each with its control, in the folders of `tsloss tune --seeds`."""
    for seed in range(seeds):
        make_run(folder / f"seed-{seed:03d}", seed=seed)
        make_run(folder / f"seed-{seed:03d}" / "control", loss="ce", seed=seed)
    return folder


def hostile_vocabulary(points: int = 12, features: int = 16) -> Vocabulary:
    """One row beside each point of the first cloud at the start, with a hostile name each."""
    rows = start(1, points, features)[0]
    return Vocabulary(rows + 0.01, [HOSTILE[i % len(HOSTILE)] for i in range(points)])
