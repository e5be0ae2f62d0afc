"""The topology of the prompt, recorded while a transformers Trainer trains it.

trainer = Trainer(model=add_soft_prompt(model, initial), args=args, train_dataset=data)
PromptTopologyCallback().attach(trainer)
trainer.train()
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tsloss_fast.analysis.record import RECORD
from tsloss_fast.analysis.tracker import TopologyTracker
from tsloss_fast.tuning.clouds import cloud_names, prompt_clouds, unwrap

__all__ = ["PromptTopologyCallback"]


class PromptTopologyCallback(TrainerCallback):
    """Records the topology of the prompt before the first optimizer step and after each one.

    The record is `topology.arrows` in the Trainer's output folder; `tsloss report` reads it
    together with the Trainer's own log. With each log of the training loss go the newest values as
    `topology/mean_lifetime` and so on (`train/topology/mean_lifetime` in TensorBoard).

    Args:
        path: where to record; the Trainer's `output_dir` by default.
        clouds: from the unwrapped model to points (B, N, D) or (N, D); `prompt_clouds` by default.
            Any tensor will do: LoRA rows, class means.
        options: of `TopologyTracker`: `every`, `h1_every`, `points_every`, `metric`, …

    A Trainer that resumes from a checkpoint goes on with the record from that step. One that starts
    again where a record lies puts the old one aside as `topology-001.arrows` and says so. Under
    several processes all of them look at the model (it may be sharded) and the first one records.

    In the list `callbacks=[…]` it comes after TensorBoard and the other reporters, which then do
    not see its values (`state.log_history` and the record do); `attach` puts it before them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        clouds: Callable[[nn.Module], Tensor] = prompt_clouds,
        **options: Any,
    ) -> None:
        if "resume" in options or "resume_points" in options:
            raise TypeError("resume: the callback takes the step from the Trainer")
        self.tracker: TopologyTracker | None = None
        self._path = path
        self._clouds = clouds
        self._options = options
        self._attached = False
        self._newest: dict[str, float] = {}

    def attach(self, trainer: Any) -> PromptTopologyCallback:
        """Join the trainer's callbacks, before its reporters; returns itself."""
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        callbacks.insert(0, self)
        self._attached = True
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.report_to and not self._attached:
            warnings.warn(
                f"{', '.join(args.report_to)} will not see the topology: call "
                "PromptTopologyCallback(...).attach(trainer) in place of callbacks=[...]",
                UserWarning,
                stacklevel=2,
            )
        model = kwargs["model"]
        points = self._points(model)
        if state.is_world_process_zero:
            if self.tracker is not None:
                self.tracker.close()
            path = Path(str(args.output_dir) if self._path is None else self._path)
            file = path if path.suffix == ".arrows" else path / RECORD
            resumed = state.global_step or None
            if resumed is None and file.exists():
                _put_aside(file)
            options = dict(self._options)
            if self._clouds is prompt_clouds:
                options.setdefault("clouds", cloud_names(unwrap(model)))
            name = getattr(getattr(model, "config", None), "_name_or_path", None)
            options["metadata"] = {"model": name} | dict(options.get("metadata") or {})
            self.tracker = TopologyTracker(
                file, resume=resumed, resume_points=points if resumed else None, **options
            )
            if resumed is None:
                self._newest = self.tracker.record(0, points, keep=True) or {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        last = state.global_step >= state.max_steps or control.should_training_stop
        due = self.tracker.due(state.global_step) if self.tracker else False
        # Only the first process knows the schedule; the points of a sharded model need all.
        if due or last or (self.tracker is None and _is_sharded(kwargs["model"])):
            points = self._points(kwargs["model"])
            if self.tracker is not None:
                self._newest = self.tracker.record(state.global_step, points, keep=last) or {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs or not self._newest:
            return
        values = {f"topology/{name}": value for name, value in self._newest.items()}
        logs.update(values)
        # The Trainer wrote its history before it asked.
        if state.log_history and "loss" in state.log_history[-1]:
            state.log_history[-1].update(values)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.tracker is not None:
            self.tracker.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.tracker is not None:
            self.tracker.close()

    @torch.no_grad()
    def _points(self, model: Any) -> Tensor:
        return self._clouds(unwrap(model))


def _is_sharded(model: nn.Module) -> bool:
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def _put_aside(file: Path) -> None:
    number = 1
    while (aside := file.with_name(f"{file.stem}-{number:03d}{file.suffix}")).exists():
        number += 1
    os.rename(file, aside)
    warnings.warn(
        f"{file} is the record of another training: it is now {aside.name}",
        UserWarning,
        stacklevel=3,
    )
