"""Everything that a prompt tuning run depends on, checked before anything is loaded.

The fields of `TuneConfig` carry the text of their option, from which `tsloss tune` makes its
command line. torch is imported where a setting is checked, so that `--help` need not wait for it.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tsloss_fast.tuning.tasks import OPERANDS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DEFAULT_WEIGHTS", "INITS", "LOSSES", "TuneConfig", "check_device"]

# The scale-free losses share a weight. A sum of lengths or squared norms is as large as the
# embedding is, tens on SmolLM2: at weight 10 it would pull the prompt to the origin.
DEFAULT_WEIGHTS = {"tsloss": 10.0, "surrogate": 10.0, "total": 0.01, "l2": 0.01, "ce": 0.0}
LOSSES = tuple(DEFAULT_WEIGHTS)
# How a soft prompt can begin.
INITS = ("vocabulary", "text", "normal")
# Plain cross-entropy has the exact form measured beside it, so that a control can be compared.
_FORMS = {"tsloss": "exact", "surrogate": "surrogate", "total": "total", "ce": "exact"}


def _option(default: Any, text: str, group: str = "", kind: type | None = None) -> Any:
    """A setting with its default, the text of its option, the group that begins with it, and the
    type of its values where the default does not say it."""
    metadata = {"help": text, "group": group, "type": kind or type(default)}
    return field(default=default, metadata=metadata)


_TERM = "weight of this term within TSLoss"
_WEIGHTS = ", ".join(f"{loss} {weight:g}" for loss, weight in DEFAULT_WEIGHTS.items())


@dataclass(frozen=True)
class TuneConfig:
    """Settings of one run of `tune`. The same settings on the same machine give the same prompt,
    bit for bit on the CPU with one thread count.

    `tsloss tune --help` explains each setting; `out` is the run's folder, where everything is
    written, and `trainer` holds further fields of `transformers.TrainingArguments` by name.

    Raises:
        ValueError: a setting is out of range, or contradicts another one; the device is none of
            this machine.
        ModuleNotFoundError: `loops` needs GUDHI.
    """

    out: str
    model: str = _option(
        "smollm2", "a Hugging Face name, a folder, a .gguf file, or smollm2", "what is tuned"
    )
    task: str = _option("boolean", "boolean, or a JSON Lines file (question, answer)")
    train_size: int = _option(128, "training items")
    test_size: int = _option(60, "test items")
    validation_size: int = _option(0, "validation items, evaluated beside the test items")
    difficulty: int | None = _option(
        None, f"operands of a boolean expression, 1 to 8 (default: {OPERANDS})", kind=int
    )
    loss: str = _option(
        "tsloss", "what is added to cross-entropy; ce adds nothing, TSLoss is measured", "the loss"
    )
    weight: float | None = _option(None, f"of what is added (default: {_WEIGHTS})", kind=float)
    connectivity: float = _option(1.0, _TERM)
    redundancy: float = _option(1.0, _TERM)
    compactness: float = _option(0.0, _TERM)
    loops: float = _option(0.0, f"{_TERM}; needs GUDHI")
    virtual_tokens: int = _option(10, "tokens of the prompt", "the prompt")
    init: str = _option("vocabulary", "how the prompt begins: vocabulary, text or normal")
    init_text: str | None = _option(None, "the text of --init text", kind=str)
    jitter: float = _option(0.0, "noise on the first prompt, which separates equal tokens")
    steps: int = _option(60, "optimizer steps; a larger number extends a run", "the training")
    batch_size: int = _option(8, "items a step (of each process, if there are several)")
    lr: float = _option(0.03, "learning rate of AdamW")
    weight_decay: float = _option(0.0, "of AdamW")
    seed: int = _option(0, "of the items, the first prompt and the order of the data")
    eval_every: int = _option(10, "steps between evaluations")
    checkpoint_every: int = _option(10, "steps between checkpoints")
    patience: int | None = _option(
        None,
        "stop after so many evaluations without a lower cross-entropy of the validation items",
        kind=int,
    )
    device: str = _option("cpu", "where the model runs, for example cuda")
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.out:
            raise ValueError("out must name a folder, got ''")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.weight is None:
            object.__setattr__(self, "weight", DEFAULT_WEIGHTS[self.loss])
        counts = ["steps", "batch_size", "virtual_tokens", "eval_every", "checkpoint_every"]
        for name in counts + ["patience"] * (self.patience is not None):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.patience is not None and self.validation_size < 1:
            raise ValueError(
                f"patience={self.patience} needs validation items to stop by, but validation_size "
                f"is {self.validation_size}: test items must not decide when the training ends"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0 … 2^32 - 1, got {self.seed}")
        for name in ("lr", "weight_decay", "weight", "jitter"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (name == "lr" and value == 0):
                bound = "above 0" if name == "lr" else ">= 0"
                raise ValueError(f"{name} must be a finite number {bound}, got {value}")
        if self.loss == "ce" and self.weight != 0:
            raise ValueError(f"loss 'ce' adds nothing, so weight must be 0, got {self.weight}")
        self.make_loss()
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
        import torch

        check_device(self.device)
        index = torch.device(self.device).index
        if index:
            raise ValueError(
                "device must be the first of its kind, as the Trainer takes it, got "
                f"{self.device!r}: use the device cuda, with CUDA_VISIBLE_DEVICES={index}"
            )

    def make_loss(self) -> nn.Module:
        """Return the module of what is added to the cross-entropy (for "ce", of what is
        measured)."""
        from tsloss_fast.loss import TSLoss
        from tsloss_fast.tuning.clouds import MeanSquaredNorm

        if self.loss == "l2":
            return MeanSquaredNorm()
        redundancy = None if self.loss == "total" else self.redundancy  # a term it does not have
        form = _FORMS[self.loss]
        return TSLoss(form, self.connectivity, redundancy, self.compactness, self.loops)

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on, everything but the folder, as JSON can hold it."""
        settings = asdict(self)
        del settings["out"]
        # To leave the difficulty out is the same run as to give the task's own.
        if self.task == "boolean" and self.difficulty is None:
            settings["difficulty"] = OPERANDS
        return settings


def check_device(name: str) -> None:
    """Raise ValueError unless torch finds the device on this machine."""
    import torch

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
