"""What is added to the cross-entropy: the paper's loss, its parts, and what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tsloss_fast.compare.checks import known, label
from tsloss_fast.loss import TSLoss
from tsloss_fast.tuning.config import MeanSquaredNorm

__all__ = [
    "METHODS",
    "SCHEDULES",
    "WHERE",
    "MeanPairwiseDistance",
    "Method",
    "essence",
    "find_method",
]

# The share of a method's weight at a time in (0, 1], 1 being the last step.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda time: 1.0,
    "warmup": lambda time: min(1.0, 4.0 * time),
    "decay": lambda time: 1.0 - time,
    "anneal": lambda time: 0.5 + 0.5 * math.cos(math.pi * time),
    "early": lambda time: 1.0 if time <= 0.25 else 0.0,
}
WHERE = ("adapter", "hidden")


class MeanPairwiseDistance(nn.Module):
    """The mean distance between two points of clouds (..., N, D), in units of `reference`.

    The paper compares with "a pairwise-distance loss" and does not define it: this, minimised, is
    the plainest reading, and pulls the points together. At coincident points the gradient is 0.
    """

    def __init__(self, reference: float = 1.0) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, points: Tensor) -> Tensor:
        count = points.shape[-2]
        if count < 2:
            return points.sum() * 0
        i, j = torch.triu_indices(count, count, 1, device=points.device).unbind(0)
        distances = torch.linalg.vector_norm(points[..., i, :] - points[..., j, :], dim=-1)
        mean: Tensor = distances.mean() / self.reference
        return mean


@dataclass(frozen=True)
class Method:
    """One loss: cross-entropy + weight · schedule(time) · term(clouds).

    Attributes:
        name: as the tables call it.
        loss: "ce" (nothing is added), "l2" (mean squared norm), "pairwise" (mean distance),
            "hofer" (``Σ |death − η|``, η being the mean death of the first prompt), "surrogate" or
            "exact" (TSLoss).
        connectivity, redundancy, compactness, loops: weights of the terms within TSLoss.
        scale: the weight at which the term is about as large as in the literature or in our
            defaults: a search multiplies it.
        schedule: of the weight over the training: "constant"; "warmup", linear over the first
            quarter; "decay", linear to 0; "anneal", a half cosine to 0; "early", the first quarter
            only.
        where: the clouds: "adapter", what is trained (a soft prompt, or the prefix of each layer);
            or "hidden", the states behind each layer at the soft prompt's positions.
    """

    name: str
    loss: str
    connectivity: float = 1.0
    redundancy: float = 1.0
    compactness: float = 0.0
    loops: float = 0.0
    scale: float = 10.0
    schedule: str = "constant"
    where: str = "adapter"

    def __post_init__(self) -> None:
        label("a method's name", self.name)
        for field, value, allowed in (
            ("loss", self.loss, LOSSES),
            ("schedule", self.schedule, tuple(SCHEDULES)),
            ("where", self.where, WHERE),
        ):
            if value not in allowed:
                raise ValueError(
                    f"method {self.name!r}: {field} must be one of {', '.join(allowed)}, got "
                    f"{value!r}"
                )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"method {self.name!r}: scale must be above 0, got {self.scale}")
        self.make_term(torch.eye(2))

    @property
    def adds_nothing(self) -> bool:
        return self.loss == "ce"

    @property
    def on_hidden(self) -> bool:
        """Whether there is a term, and it acts on hidden states."""
        return self.where == "hidden" and not self.adds_nothing

    def settings(self) -> dict[str, Any]:
        """All but the name: what the result depends on."""
        return {name: value for name, value in asdict(self).items() if name != "name"}

    def share(self, step: int, steps: int) -> float:
        """The schedule's share of the weight at a step in 1 … steps."""
        return SCHEDULES[self.schedule](step / steps)

    def make_term(self, initial: Tensor) -> Callable[[Tensor], Tensor]:
        """The term as a function of clouds (..., N, D); `initial` are the first clouds."""
        if self.loss == "l2":
            return MeanSquaredNorm()
        if self.loss == "pairwise":
            with torch.no_grad():
                return MeanPairwiseDistance(float(MeanPairwiseDistance()(initial)) or 1.0)
        if self.loss == "hofer":
            with torch.no_grad():
                lengths = TSLoss("total")(initial) / max(1, initial.shape[-2] - 1)
            return TSLoss("total", eta=float(lengths))
        form = "surrogate" if self.loss == "surrogate" else "exact"
        return TSLoss(form, self.connectivity, self.redundancy, self.compactness, self.loops)


LOSSES = ("ce", "l2", "pairwise", "hofer", "surrogate", "exact")

METHODS = {
    method.name: method
    for method in (
        Method("ce", "ce"),
        # These three are as large as the embeddings are, or as the number of tokens is.
        Method("l2", "l2", scale=0.03),
        Method("pairwise", "pairwise", scale=0.3),
        Method("hofer", "hofer", scale=0.1),
        Method("surrogate-h0", "surrogate", redundancy=0.0),
        Method("surrogate-h1", "surrogate", connectivity=0.0),
        Method("surrogate", "surrogate"),
        Method("connectivity", "exact", redundancy=0.0),
        Method("redundancy", "exact", connectivity=0.0),
        Method("tsloss", "exact"),
        Method("tsloss-compact", "exact", compactness=0.1),
        Method("tsloss-loops", "exact", loops=0.1),
        Method("tsloss-warmup", "exact", schedule="warmup"),
        Method("tsloss-decay", "exact", schedule="decay"),
        Method("tsloss-anneal", "exact", schedule="anneal"),
        Method("tsloss-early", "exact", schedule="early"),
        Method("tsloss-hidden", "exact", where="hidden"),
    )
}


def essence(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a method's settings those that its loss uses; equal ones are the same method."""
    if settings["loss"] == "ce":
        return {"loss": "ce"}
    terms = {
        "surrogate": ("connectivity", "redundancy"),
        "exact": ("connectivity", "redundancy", "compactness", "loops"),
    }
    used = {name: float(settings[name]) for name in terms.get(settings["loss"], ())}
    return {name: settings[name] for name in ("loss", "schedule", "where")} | used


def find_method(given: str | Mapping[str, Any]) -> Method:
    """A method by its name, or from a mapping of `Method`'s fields.

    Args:
        given: the name or the mapping.

    A mapping whose `name` is a built-in's and that has no `loss` changes that built-in.

    Raises:
        ValueError: an unknown name or field; a value that does not fit.
    """
    if isinstance(given, str):
        if given not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {given!r}")
        return METHODS[given]
    known(Method, given, "a method")
    if not isinstance(given.get("name"), str):
        raise ValueError(f"a method needs a name, got {dict(given)}")
    base = METHODS[given["name"]].settings() if given["name"] in METHODS else {}
    if not base and "loss" not in given:
        raise ValueError(f"method {given['name']!r} is not built in, so it needs a loss")
    return Method(**{**base, **given})
