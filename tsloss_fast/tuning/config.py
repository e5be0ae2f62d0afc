"""Everything that a prompt tuning run depends on, checked before anything is loaded."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tsloss_fast.loss import TSLoss
from tsloss_fast.tuning.tasks import task_difficulty

__all__ = ["DEFAULT_WEIGHTS", "INITS", "LOSSES", "MeanSquaredNorm", "TuneConfig"]

# The scale-free losses share a weight. A sum of lengths or squared norms is as large as the
# embedding is, tens on SmolLM2: at weight 10 it would pull the prompt to the origin.
DEFAULT_WEIGHTS = {"tsloss": 10.0, "surrogate": 10.0, "total": 0.01, "l2": 0.01, "ce": 0.0}
LOSSES = tuple(DEFAULT_WEIGHTS)
# How a soft prompt can begin.
INITS = ("vocabulary", "text", "normal")
# Plain cross-entropy has the exact form measured beside it, so that a control can be compared.
FORMS = {"tsloss": "exact", "surrogate": "surrogate", "total": "total", "ce": "exact"}


class MeanSquaredNorm(nn.Module):
    """The L2 baseline: the mean of ‖p_i‖² over the points of clouds (..., N, D)."""

    def forward(self, points: Tensor, return_terms: bool = False, h0: Any = None) -> Any:
        """The value, and with `return_terms` also a dict of it; `h0` is that of TSLoss, unused."""
        value = points.square().sum(-1).mean()
        return (value, {"mean_squared_norm": value}) if return_terms else value


@dataclass(frozen=True)
class TuneConfig:
    """Settings of one run. The same settings on the same machine give the same prompt, bit for bit.

    Attributes:
        out: the run's folder; everything is written there.
        model: as in `load_model`.
        task, difficulty: as in `load_task`.
        loss: what is added to the cross-entropy of the answers: "tsloss" (the exact form),
            "surrogate", "total" (sum of deaths), "l2" (mean squared norm of the tokens), or "ce":
            nothing, TSLoss being measured only.
        weight: of what is added; by default `DEFAULT_WEIGHTS[loss]`.
        connectivity, redundancy, compactness, loops: weights of the terms within TSLoss.
        steps, batch_size, lr, weight_decay: of AdamW, whose rate is constant.
        virtual_tokens, init, init_text, jitter: as in `initial_prompt`.
        train_size, test_size, validation_size: items of the splits.
        seed: of the task, the initial prompt and the order of the data.
        eval_every: evaluate after every so many steps, before the first and after the last.
        checkpoint_every: steps that a killed run loses at most.
        device: where the model runs, a device of this machine. Bit equality is promised for "cpu"
            with one thread count.
    """

    out: str
    model: str = "smollm2"
    task: str = "boolean"
    loss: str = "tsloss"
    weight: float | None = None
    connectivity: float = 1.0
    redundancy: float = 1.0
    compactness: float = 0.0
    loops: float = 0.0
    steps: int = 60
    batch_size: int = 8
    lr: float = 0.03
    weight_decay: float = 0.0
    virtual_tokens: int = 10
    init: str = "vocabulary"
    init_text: str | None = None
    jitter: float = 0.0
    train_size: int = 128
    test_size: int = 60
    validation_size: int = 0
    difficulty: int | None = None
    seed: int = 0
    eval_every: int = 10
    checkpoint_every: int = 10
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.weight is None:
            object.__setattr__(self, "weight", DEFAULT_WEIGHTS[self.loss])
        at_least_one = ("steps", "batch_size", "virtual_tokens", "eval_every", "checkpoint_every")
        for name in at_least_one:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in 0 … 2^63 - 1, got {self.seed}")
        for name, least in (("lr", None), ("weight_decay", 0.0), ("weight", 0.0)):
            value = getattr(self, name)
            if not math.isfinite(value) or (value <= 0 if least is None else value < least):
                bound = "a finite number above 0" if least is None else "a finite number >= 0"
                raise ValueError(f"{name} must be {bound}, got {value}")
        if self.loss == "ce" and self.weight != 0:
            raise ValueError(f"loss 'ce' adds nothing, so weight must be 0, got {self.weight}")
        self.make_loss()
        # All that follows would otherwise fail only after the model was loaded.
        if self.loops and importlib.util.find_spec("gudhi") is None:
            raise ModuleNotFoundError(
                f"loops={self.loops} needs GUDHI, not installed here; install it with: "
                'pip install "tsloss-fast[analysis]"',
                name="gudhi",
            )
        if self.init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, got {self.init!r}")
        text = self.init_text
        if self.init == "text" and (text is None or not text.strip()):
            raise ValueError(f"init 'text' needs a text in init_text, got {text!r}")
        if self.init != "text" and text is not None:
            raise ValueError(f"init_text is only used by init 'text', but init is {self.init!r}")
        if not math.isfinite(self.jitter) or self.jitter < 0:
            raise ValueError(f"jitter must be a finite number >= 0, got {self.jitter}")
        _check_device(self.device)

    def make_loss(self) -> nn.Module:
        """The module of what is added to the cross-entropy (for "ce", of what is measured)."""
        if self.loss == "l2":
            return MeanSquaredNorm()
        redundancy = None if self.loss == "total" else self.redundancy  # a term it does not have
        return TSLoss(FORMS[self.loss], self.connectivity, redundancy, self.compactness, self.loops)

    def identity(self) -> dict[str, Any]:
        """What the result depends on: everything but the folder. JSON can hold it."""
        settings = asdict(self)
        del settings["out"]
        # To leave it out is the same run as to give the task's own.
        settings["difficulty"] = task_difficulty(self.task, self.difficulty)
        return settings


def _check_device(name: str) -> None:
    """Raise ValueError unless torch finds the device on this machine."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device must be a name that torch knows, such as cpu or cuda:0, got {name!r}"
        ) from None
    if device.type == "cpu":
        return
    # Every kind of device has its module (torch.cuda, torch.mps, torch.xpu); others, such as
    # "meta", hold no values.
    count = getattr(getattr(torch, device.type, None), "device_count", lambda: 0)()
    if (device.index or 0) >= count:
        found = f"only {count} of this kind" if count else "none of this kind"
        raise ValueError(
            f"device must be one of this machine, got {name!r}: torch {torch.__version__} finds "
            f"{found}; use cpu, or install a torch that was built for the device"
        )
