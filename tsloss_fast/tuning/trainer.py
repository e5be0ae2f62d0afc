"""TSLoss inside the Trainer of transformers and the SFTTrainer of TRL.

A training loop without a Trainer adds the term to its loss: the average over processes does not
change the term, and with accumulation accelerate divides it together with the loss.
"""

from __future__ import annotations

import inspect
import math
import numbers
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from tsloss_fast.loss import TSLoss
from tsloss_fast.tuning import encoder_state as encoders
from tsloss_fast.tuning.clouds import LastBarcode, cloud_parts, one_batch, prompt_clouds, unwrap
from tsloss_fast.tuning.compatibility import refuse_what_cannot_train
from tsloss_fast.tuning.recorder import TopologyRecorder

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
    of items in the batch. Evaluation is left alone: `eval_loss` is the task's loss.

    Each log of the training loss gains `tsloss/task_loss`, `tsloss/total` and the unweighted terms,
    such as `tsloss/connectivity` (`train/tsloss/total` in TensorBoard), as means over the steps
    since the last log and over the processes: `loss` is `task_loss` plus the weight times `total`.

    On the CPU the barcode is computed once a step: the accumulated batches share it, and so does a
    `PromptTopologyCallback` of this trainer that records the same clouds.

    Checkpoints gain `tsloss.safetensors` if the loss has a state (the reference of compactness),
    and `prompt_encoder.safetensors` for the methods whose encoder peft does not save; a resumed
    run reads both.

    Args:
        ts_loss: the loss, `TSLoss()` by default, or any module that makes a scalar of points
            (B, N, D) and has no parameters to train. If its forward has an argument `return_terms`,
            it is called with True and gives the scalar and a dict of terms.
        ts_weight: λ ≥ 0, or a function that gives it for each step of the optimizer, from 0 on; it
            is logged as `tsloss/weight` then. `lambda step: 10.0 * min(1, step / 100)` is a
            warm-up. At 0 the term is measured and logged, and has no part in the training.
        ts_clouds: from the unwrapped model to points (B, N, D) or (N, D) with gradient, or to a
            list of such tensors, whose clouds all count the same; `prompt_clouds` by default, and
            `lora_clouds` and `hidden_states` are others.

    Everything else goes to the trainer. `ts_seconds` is the time that the term and its backward
    have taken, on other devices than the CPU that of the host. `TSLossTrainer` has an example.

    Raises:
        TypeError, ValueError: a wrong argument, in training also a loss that is not a scalar; a
            model without virtual tokens; what transformers cannot train: prefix tuning with
            gradient checkpointing, label smoothing with virtual tokens before the text. A class
            that names this mixin behind a trainer whose own loss would be in use is refused when it
            is defined.
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
        ts_loss: nn.Module | None = None,
        ts_weight: float | Callable[[int], float] = 10.0,
        ts_clouds: Callable[[nn.Module], Any] = prompt_clouds,
        **kwargs: Any,
    ) -> None:
        loss: Any = TSLoss() if ts_loss is None else ts_loss
        if not isinstance(loss, nn.Module):
            got = type(loss).__name__
            raise TypeError(f"ts_loss must be a TSLoss or another nn.Module, or None, got {got}")
        if trained := [n for n, p in loss.named_parameters() if p.requires_grad]:
            raise ValueError(
                f"ts_loss has parameters that no optimizer would train: {', '.join(trained)}; "
                "freeze them with ts_loss.requires_grad_(False), or make the module a part of the "
                "model and let ts_clouds apply it"
            )
        if not callable(ts_clouds):
            raise TypeError(
                "ts_clouds must be a function from the model to points of shape (B, N, D), got "
                f"{type(ts_clouds).__name__}"
            )
        self.ts_loss: nn.Module = loss
        self.ts_weight = ts_weight if callable(ts_weight) else _checked(ts_weight, "ts_weight")
        self.ts_clouds = ts_clouds
        self.ts_seconds = 0.0
        self._ts_has_terms = "return_terms" in inspect.signature(loss.forward).parameters
        self._ts_newest_weight = -1, 0.0
        self._ts_backward_began = 0.0
        self._ts_barcode = LastBarcode()
        self._ts_sums: dict[str, Any] = {}
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
        if model.training and hasattr(self.ts_clouds, "attach"):
            self.ts_clouds.attach(unwrap(model))
        kwargs |= {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
        result: Any = super().compute_loss(model, inputs, **kwargs)
        if not model.training:
            return result
        loss, *outputs = result if return_outputs else (result,)
        start = perf_counter()
        weight = self._ts_weight_at(self.state.global_step)
        found = self._ts_term(model, weight)
        # The partial last group of an epoch counts as what it is, not as the configured number.
        steps = getattr(self, "current_gradient_accumulation_steps", None)
        share = 1.0 / (steps or self.args.gradient_accumulation_steps)
        of_task = share if self._trainer_divides(num_items_in_batch) else 1.0
        parts: dict[str, Any] = {"task_loss": loss.detach().float().mean() * of_task}
        parts |= {name: value.detach().float() * share for name, value in found.items()}
        if callable(self.ts_weight):
            parts["weight"] = weight * share
        for name, part in parts.items():
            self._ts_sums[name] = self._ts_sums.get(name, 0.0) + part
        self._ts_steps += share
        if weight > 0:
            term = found["total"] * (weight * share / of_task)
            if term.grad_fn is not None:
                term.grad_fn.register_prehook(self._ts_backward_begins)
            loss = loss + term.to(loss.device)
        self.ts_seconds += perf_counter() - start
        return (loss, *outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        # Here and not in a callback's on_log: that comes after log_history is written.
        if self._ts_steps and ("loss" in logs or "train_loss" in logs):
            like = torch.zeros((), device=self.args.device)
            sums = torch.stack([torch.as_tensor(s).to(like) for s in self._ts_sums.values()])
            # One copy from the device for all, and as `loss` the mean over the processes.
            means = self.accelerator.reduce(sums / self._ts_steps, "mean").tolist()
            logs.update(zip((f"tsloss/{name}" for name in self._ts_sums), means, strict=True))
            self._ts_sums, self._ts_steps = {}, 0.0
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        folder = Path(str(self.args.output_dir if output_dir is None else output_dir))
        states = {TSLOSS_FILE: self.ts_loss.state_dict()}
        if getattr(model := self._bare_model(), "peft_config", None):
            # On every rank: it may gather shards.
            states[encoders.ENCODER_FILE] = encoders.prompt_encoder_state(model)
        for name, state in states.items():
            if state and self.args.should_save:
                encoders.write_tensors(folder / name, state)
        super().save_model(output_dir, *args, **kwargs)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        folder = Path(resume_from_checkpoint)
        target = self._bare_model() if model is None else unwrap(model)
        saved_encoder = (folder / encoders.ENCODER_FILE).is_file()
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            # The prompt encoder is the last thing that peft loads, and a projected prefix is saved
            # in the shape of its output, which its embedding cannot take.
            known = saved_encoder and encoders.is_projected_prefix(target)
            if not (known and "Embedding" in str(error)):
                raise
        if saved_encoder:
            encoders.load_prompt_encoder(target, folder)
        if (folder / TSLOSS_FILE).is_file():
            self.ts_loss.load_state_dict(encoders.read_tensors(folder / TSLOSS_FILE))
        elif self.ts_loss.state_dict():
            warnings.warn(
                f"{folder} holds no {TSLOSS_FILE}: ts_loss keeps the state that it has, and "
                "compactness takes a new reference from the resumed prompt; pass "
                "TSLoss(reference=...) to keep the old one",
                UserWarning,
                stacklevel=2,
            )

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = self.state.best_model_checkpoint
        if best is not None and Path(best, encoders.ENCODER_FILE).is_file():
            encoders.load_prompt_encoder(self._bare_model(), best)

    def _ts_term(self, model: nn.Module, weight: float) -> dict[str, Tensor]:
        """The loss of the clouds, `total`, without its weight, and its terms; for a subclass to
        change. There is a gradient only with a weight above 0."""
        with torch.set_grad_enabled(weight > 0):
            parts = cloud_parts(self.ts_clouds(unwrap(model)))
            # A view has a backward of its own, while the task may use a parameter as well.
            parts = [part.view_as(part) if part.is_leaf else part for part in parts]
            for part in parts:
                if part.grad_fn is not None:
                    part.grad_fn.register_prehook(self._ts_backward_ends)
            one = isinstance(self.ts_loss, TSLoss)
            batches = [one_batch(parts)] if one else [(part, None) for part in parts]
            # Distances between half precision points collapse: never under autocast.
            with torch.autocast(parts[0].device.type, enabled=False):
                found = [self._ts_values(points, lengths) for points, lengths in batches]
            if len(found) == 1:
                return found[0]
            shares = parts[0].new_tensor([len(part) for part in parts]) / sum(map(len, parts))
            return {
                name: shares @ torch.stack([values[name].to(shares) for values in found])
                for name in found[0]
            }

    def _ts_values(self, points: Tensor, lengths: Any) -> dict[str, Tensor]:
        loss, terms = self.ts_loss, {}
        known = self._known_barcode(loss, points, lengths) if isinstance(loss, TSLoss) else {}
        if self._ts_has_terms:
            total, terms = loss(points, return_terms=True, **known)
        else:
            total = loss(points, **known)
        if not isinstance(total, Tensor) or total.dim():
            got = tuple(total.shape) if isinstance(total, Tensor) else type(total).__name__
            raise TypeError(
                f"ts_loss: {type(loss).__name__} gave {got} for points {tuple(points.shape)}, "
                "expected a scalar tensor; take the mean over the clouds"
            )
        if taken := {"total", "task_loss", "weight"} & terms.keys():
            raise ValueError(
                f"ts_loss: {type(loss).__name__} calls a term {', '.join(sorted(taken))}, which is "
                "the trainer's own name in the log; give the term another name"
            )
        return {"total": total} | {n: torch.as_tensor(value) for n, value in terms.items()}

    def _known_barcode(self, loss: TSLoss, points: Tensor, lengths: Any) -> dict[str, Any]:
        """The argument `lengths` if the sizes differ, and `h0` if the loss can use it: the barcode
        that the record of these clouds, or an earlier batch of the step, has computed."""
        known: dict[str, Any] = {} if lengths is None else {"lengths": lengths}
        # Without the argument is a forward of the user's own, and a hook may give other points.
        own = type(loss).forward is not TSLoss.forward or "forward" in vars(loss)
        other = loss.form == "surrogate" or loss.metric != "euclidean"
        if own or other or loss._forward_pre_hooks:
            return known
        recorders = (
            callback.last_barcode
            for callback in self.callback_handler.callbacks
            if isinstance(callback, TopologyRecorder) and callback.watches(self.ts_clouds)
        )
        return known | {"h0": next(recorders, self._ts_barcode).of(points, lengths)}

    def _ts_weight_at(self, step: int) -> float:
        if not callable(self.ts_weight):
            return self.ts_weight
        if self._ts_newest_weight[0] != step:  # once for all batches of a step
            self._ts_newest_weight = step, _checked(self.ts_weight(step), f"ts_weight({step})")
        return self._ts_newest_weight[1]

    def _ts_backward_begins(self, gradients: Any) -> None:
        self._ts_backward_began = perf_counter()

    def _ts_backward_ends(self, gradients: Any) -> None:
        start, self._ts_backward_began = self._ts_backward_began, perf_counter()
        self.ts_seconds += self._ts_backward_began - start

    def _trainer_divides(self, num_items_in_batch: Tensor | int | None) -> bool:
        """Whether `training_step` divides the loss by the accumulation steps."""
        declared = getattr(self, "loss_is_scaled_for_ga", None)
        if declared is not None:
            return not declared
        by_items = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return not by_items and self.compute_loss_func is None

    def _bare_model(self) -> nn.Module:
        model: Any = self.model
        return unwrap(model)


def _checked(weight: Any, name: str) -> float:
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(weight).__name__}")
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(f"{name} must be 0 or a positive finite number, got {weight}")
    return float(weight)


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
        ...     quiet = dict(report_to="none", save_strategy="no", use_cpu=True)
        ...     arguments = TrainingArguments(folder, max_steps=2, logging_steps=1, **quiet)
        ...     trainer = TSLossTrainer(model, arguments, train_dataset=data, ts_weight=10.0)
        ...     result = trainer.train()  # doctest: +ELLIPSIS
        {...}
        >>> logged = [entry for entry in trainer.state.log_history if "tsloss/total" in entry]
        >>> [name for name in logged[0] if name.startswith("tsloss/")]
        ['tsloss/task_loss', 'tsloss/total', 'tsloss/connectivity', 'tsloss/redundancy']
    """
