"""TSLoss inside the Trainer of transformers and the SFTTrainer of TRL.

In a loop of one's own, with accelerate, Lightning or neither, the term is simply added. It is the
same on every rank, so the average of the gradients leaves it as it is; with accumulation,
accelerate divides it together with the loss. The README has such a loop.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from tsloss_fast.loss import TSLoss
from tsloss_fast.tuning.callback import PromptTopologyCallback
from tsloss_fast.tuning.clouds import LastBarcode, prompt_clouds, unwrap
from tsloss_fast.tuning.compatibility import refuse_what_cannot_train
from tsloss_fast.tuning.encoder_state import (
    ENCODER_FILE,
    is_projected_prefix,
    load_prompt_encoder,
    prompt_encoder_state,
    read_tensors,
    write_tensors,
)

__all__ = ["TSLossMixin", "TSLossTrainer"]

TSLOSS_FILE = "tsloss.safetensors"

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    # A mixin: what stands behind it may be Trainer, Seq2SeqTrainer or TRL's SFTTrainer.
    _Trainer = object


class TSLossMixin(_Trainer):
    """Adds `ts_weight * ts_loss(ts_clouds(model))` to the training loss; put it before the trainer.

    The gradient of the term is the same for every number of accumulation steps, of processes and
    of items in the batch. Evaluation is left alone: `eval_loss` is the task's loss. In training,
    `loss` minus `ts_weight` times `tsloss/total` is the task's loss.

    Each log of the training loss gains `tsloss/total` and the unweighted terms, such as
    `tsloss/connectivity`, as means over the steps since the last log (`train/tsloss/total` in
    TensorBoard). They stay on the device until then.

    On the CPU the barcode is computed once a step: the accumulated batches share it, and so does a
    `PromptTopologyCallback` of this trainer that records the same clouds.

    Checkpoints gain `tsloss.safetensors` if the loss has a state (the reference of compactness),
    and `prompt_encoder.safetensors` for the methods whose encoder peft does not save; a resumed
    run reads both.

    Args:
        ts_loss: the loss; `TSLoss()` by default. It is moved to the trainer's device.
        ts_weight: λ ≥ 0. At 0 the term is measured and logged, and has no part in the training.
        ts_clouds: from the unwrapped model to points (B, N, D) or (N, D) with gradient;
            `prompt_clouds` by default.

    Everything else goes to the trainer. `TSLossTrainer` has an example.

    Raises:
        TypeError, ValueError: a wrong argument; a model without virtual tokens; prefix tuning with
            gradient checkpointing, or label smoothing with virtual tokens before the text, which
            transformers cannot train. A class that names this mixin behind a trainer is refused
            with a TypeError when it is defined if the trainer's own loss would be the one in use.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        losses = [c for c in cls.__mro__ if "compute_loss" in vars(c)]
        if not issubclass(losses[0], TSLossMixin):
            first = cls.__bases__[0].__name__
            raise TypeError(
                f"{cls.__name__} names {first} before TSLossMixin, so that it would train with the "
                f"loss of {losses[0].__name__} alone; name the mixin first: "
                f"class {cls.__name__}(TSLossMixin, {first})"
            )

    def __init__(
        self,
        *args: Any,
        ts_loss: TSLoss | None = None,
        ts_weight: float = 10.0,
        ts_clouds: Callable[[nn.Module], Tensor] = prompt_clouds,
        **kwargs: Any,
    ) -> None:
        if ts_loss is not None and not isinstance(ts_loss, TSLoss):
            raise TypeError(f"ts_loss must be a TSLoss or None, got {type(ts_loss).__name__}")
        if isinstance(ts_weight, bool) or not isinstance(ts_weight, (int, float)):
            raise TypeError(f"ts_weight must be a number, got {type(ts_weight).__name__}")
        if not math.isfinite(ts_weight) or ts_weight < 0:
            raise ValueError(f"ts_weight must be 0 or a positive finite number, got {ts_weight}")
        if not callable(ts_clouds):
            raise TypeError(
                "ts_clouds must be a function from the model to points of shape (B, N, D), got "
                f"{type(ts_clouds).__name__}"
            )
        self.ts_loss = TSLoss() if ts_loss is None else ts_loss
        self.ts_weight = float(ts_weight)
        self.ts_clouds = ts_clouds
        self._ts_barcode = LastBarcode()
        self._ts_sums: dict[str, Tensor] = {}
        self._ts_steps = 0.0
        super().__init__(*args, **kwargs)
        self.ts_loss.to(self.args.device)
        model = self._bare_model()
        if ts_clouds is prompt_clouds:
            with torch.no_grad():
                prompt_clouds(model)  # raises for a model without virtual tokens
        # With a compute_loss_func the trainer does not smooth at all.
        smoothing = self.args.label_smoothing_factor if self.compute_loss_func is None else 0.0
        refuse_what_cannot_train(model, self.args, smoothing)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """The trainer's loss, and in training mode the term. Here and not in `model.forward`,
        whose loss the trainer multiplies by the number of processes."""
        result: Any = super().compute_loss(
            model,
            inputs,
            return_outputs=return_outputs,
            num_items_in_batch=num_items_in_batch,
            **kwargs,
        )
        if not model.training:
            return result
        term = self._ts_term(model, num_items_in_batch)
        if self.ts_weight == 0:
            return result
        if return_outputs:
            loss, outputs = result
            return loss + term.to(loss.device), outputs
        return result + term.to(result.device)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        # Here and not in a callback's on_log: that comes after log_history is written.
        if self._ts_steps and ("loss" in logs or "train_loss" in logs):
            # One copy from the device for all the terms.
            means = torch.stack(list(self._ts_sums.values())).div(self._ts_steps).tolist()
            logs.update(zip((f"tsloss/{name}" for name in self._ts_sums), means, strict=True))
            self._ts_sums, self._ts_steps = {}, 0.0
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        folder = Path(str(self.args.output_dir if output_dir is None else output_dir))
        encoder = self._encoder_state()  # on every rank: it may gather shards
        if self.args.should_save:
            if encoder:
                write_tensors(folder / ENCODER_FILE, encoder)
            if not bool(self.ts_loss.m_ref.isnan()):  # NaN: compactness has set no reference
                loss_state = {n: t.detach().cpu() for n, t in self.ts_loss.state_dict().items()}
                write_tensors(folder / TSLOSS_FILE, loss_state)
        super().save_model(output_dir, *args, **kwargs)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        folder = Path(resume_from_checkpoint)
        target = self._bare_model() if model is None else unwrap(model)
        saved_encoder = (folder / ENCODER_FILE).is_file()
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            # The prompt encoder is the last thing that peft loads, and a projected prefix is saved
            # in the shape of its output, which its embedding cannot take.
            if not (saved_encoder and is_projected_prefix(target) and "Embedding" in str(error)):
                raise
        if saved_encoder:
            load_prompt_encoder(target, folder)
        if (folder / TSLOSS_FILE).is_file():
            self.ts_loss.load_state_dict(read_tensors(folder / TSLOSS_FILE))
        elif self.ts_loss.weights["compactness"] and bool(self.ts_loss.m_ref.isnan()):
            warnings.warn(
                f"{folder} holds no {TSLOSS_FILE}: compactness takes a new reference from the "
                "resumed prompt; pass TSLoss(reference=...) to keep the old one",
                UserWarning,
                stacklevel=2,
            )

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = self.state.best_model_checkpoint
        if best is not None and os.path.isfile(os.path.join(best, ENCODER_FILE)):
            load_prompt_encoder(self._bare_model(), best)

    def _ts_term(self, model: nn.Module, num_items_in_batch: Tensor | int | None) -> Tensor:
        with torch.set_grad_enabled(self.ts_weight > 0):
            points = self.ts_clouds(unwrap(model))
            # Distances between half precision points collapse: never under autocast.
            with torch.autocast(points.device.type, enabled=False):
                known = self._known_barcode(points)
                total, terms = self.ts_loss(points, return_terms=True, **known)
        # The partial last group of an epoch counts as what it is, not as the configured number.
        steps = getattr(self, "current_gradient_accumulation_steps", None)
        share = 1.0 / (steps or self.args.gradient_accumulation_steps)
        for name, value in {"total": total, **terms}.items():
            part = value.detach().float() * share
            self._ts_sums[name] = self._ts_sums[name] + part if name in self._ts_sums else part
        self._ts_steps += share
        term: Tensor = self.ts_weight * total
        return term * share if self._trainer_will_not_divide(num_items_in_batch) else term

    def _known_barcode(self, points: Tensor) -> dict[str, Any]:
        """The argument `h0` of the loss, where the loss has use for it: the barcode that the record
        of the same clouds, or an earlier batch of an accumulated step, has computed."""
        loss = self.ts_loss
        # Without the argument is a forward of the user's own, and a hook may give other points.
        own = type(loss).forward is not TSLoss.forward or "forward" in vars(loss)
        if own or loss._forward_pre_hooks:
            return {}
        if loss.form == "surrogate" or loss.metric != "euclidean":
            return {}
        recorders = (
            callback.last_barcode
            for callback in self.callback_handler.callbacks
            if isinstance(callback, PromptTopologyCallback) and callback.watches(self.ts_clouds)
        )
        return {"h0": next(recorders, self._ts_barcode).of(points)}

    def _trainer_will_not_divide(self, num_items_in_batch: Tensor | int | None) -> bool:
        """Whether `training_step` takes the loss as already divided by the accumulation steps."""
        declared = getattr(self, "loss_is_scaled_for_ga", None)
        if declared is not None:
            return bool(declared)
        by_items = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return bool(by_items) or self.compute_loss_func is not None

    def _bare_model(self) -> nn.Module:
        model: Any = self.model
        return unwrap(model)

    def _encoder_state(self) -> dict[str, Tensor]:
        model = self._bare_model()
        return prompt_encoder_state(model) if getattr(model, "peft_config", None) else {}


class TSLossTrainer(TSLossMixin, Trainer):
    """`transformers.Trainer` with TSLoss. `TSLossMixin` says what it adds: the arguments `ts_loss`,
    `ts_weight` and `ts_clouds`.

    Example:
        >>> import tempfile
        >>> from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
        >>> from tsloss_fast.tuning import add_soft_prompt
        >>> sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        >>> model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes))
        >>> model = add_soft_prompt(model, torch.randn(5, 8))
        >>> data = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 4
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     arguments = TrainingArguments(
        ...         folder, max_steps=2, logging_steps=1, report_to="none", save_strategy="no",
        ...         use_cpu=True,
        ...     )
        ...     trainer = TSLossTrainer(
        ...         model=model, args=arguments, train_dataset=data, ts_weight=10.0
        ...     )
        ...     result = trainer.train()  # doctest: +ELLIPSIS
        {...}
        >>> logged = [entry for entry in trainer.state.log_history if "tsloss/total" in entry]
        >>> [name for name in logged[0] if name.startswith("tsloss/")]
        ['tsloss/total', 'tsloss/connectivity', 'tsloss/redundancy']
    """
