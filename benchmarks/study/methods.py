"""What is added to the cross-entropy: the topological loss, its parts, and plainer terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from tsloss_fast import TSLoss

__all__ = ["METHODS", "SCHEDULES", "Method", "Start", "make_term"]

# The share of a method's weight at a time in (0, 1], 1 being the last step.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda time: 1.0,
    "warmup": lambda time: min(1.0, 4.0 * time),
    "decay": lambda time: 1.0 - time,
    "anneal": lambda time: 0.5 + 0.5 * math.cos(math.pi * time),
    "early": lambda time: 1.0 if time <= 0.25 else 0.0,
}
# The default weight of each loss. The topological losses are free of scale, and 10 is the package's
# own weight of them; the others are as large as the embeddings are, or the number of tokens.
_FORMS = {"surrogate": 10.0, "nearest": 10.0, "tsloss": 10.0}
LOSSES = {"ce": 0.0, "l2": 0.03, "pairwise": 0.3, "hofer": 0.1, **_FORMS}


@dataclass(frozen=True)
class Start:
    """How a prompt begins; all but the name are arguments of `initial_prompt`."""

    name: str = "vocabulary"
    init: Literal["vocabulary", "text", "normal"] = "vocabulary"
    init_text: str | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if (self.init == "text") != (self.init_text is not None):
            raise ValueError(f"start {self.name!r}: init_text belongs to init: text alone")


@dataclass(frozen=True)
class Method:
    """An arm of a study: cross-entropy + weight · schedule(time) · term(clouds).

    Attributes:
        loss: the term: "ce" (nothing is added), "l2" (mean squared norm), "pairwise" (mean
            distance, in units of the first prompt's), "hofer" (``Σ |death − η|``, η being the mean
            death of the first prompt), "surrogate", "nearest" or "tsloss" (TSLoss, exact form).
        weight: None is the default of the loss.
        schedule: of the weight; of its names, "warmup" and "early" mean the first quarter.
        start: of this arm alone, in place of the design's.
        arguments: of TSLoss.
    """

    name: str
    loss: Literal[tuple(LOSSES)]
    weight: float | None = None
    schedule: Literal[tuple(SCHEDULES)] = "constant"
    start: Start | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        what = f"method {self.name!r}"
        if self.weight is None:
            object.__setattr__(self, "weight", LOSSES[self.loss])
        if (self.weight == 0) != (self.loss == "ce"):
            raise ValueError(f"{what}: got the weight {self.weight}; 0 is for the loss ce alone")
        if self.arguments and self.loss not in _FORMS:
            raise ValueError(f"{what}: the loss {self.loss} has no arguments, leave them out")
        try:
            make_term(self.settings(), torch.eye(2))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what}: {error}") from error

    def settings(self) -> dict[str, Any]:
        """Return what a run depends on, apart from weight and start."""
        return {"loss": self.loss, "schedule": self.schedule, "arguments": dict(self.arguments)}


def make_term(settings: Mapping[str, Any], initial: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the term as a function of clouds (..., N, D); `initial` are the first clouds."""
    loss = settings["loss"]
    with torch.no_grad():
        if loss == "ce":
            return lambda points: points.sum() * 0
        if loss == "l2":
            return lambda points: points.square().sum(-1).mean()
        if loss == "pairwise":
            unit = float(_mean_distance(initial)) or 1.0
            return lambda points: _mean_distance(points) / unit
        if loss == "hofer":
            mean_death = TSLoss("total")(initial) / max(1, initial.shape[-2] - 1)
            return TSLoss("total", eta=float(mean_death))
    return TSLoss("exact" if loss == "tsloss" else loss, **settings["arguments"])


def _mean_distance(points: Tensor) -> Tensor:
    """Mean distance of two points. The gradient between coincident points is 0."""
    i, j = torch.triu_indices(points.shape[-2], points.shape[-2], 1, device=points.device)
    distances = torch.linalg.vector_norm(points[..., i, :] - points[..., j, :], dim=-1)
    return distances.sum(-1).mean() / max(1, len(i))


# The arms that a design can name without more words.
METHODS = {loss: {"loss": loss} for loss in LOSSES}
METHODS |= yaml.safe_load(Path(__file__).with_name("methods.yaml").read_text(encoding="utf-8"))
