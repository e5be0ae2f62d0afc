"""The topology of the prompt, recorded while a transformers Trainer trains it."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tsloss_fast.analysis.record import RECORD
from tsloss_fast.analysis.record_writer import put_aside
from tsloss_fast.analysis.schedule import schedule
from tsloss_fast.analysis.tracker import TopologyTracker
from tsloss_fast.tuning.clouds import LastBarcode, cloud_names, prompt_clouds, unwrap

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
    An encoder of the prompt (P-tuning) is run in eval mode. Should recording fail, that is said
    once and the training goes on without; a checkpoint waits for the H1 that was begun.

    A pickled or copied callback has the settings of the first one and no open record; it begins to
    record when a training begins.

    In the list `callbacks=[…]` it comes after TensorBoard and the other reporters, which then do
    not see its values (`state.log_history` and the record do); `attach` puts it before them.

    Example:
        >>> import tempfile
        >>> from transformers import LlamaConfig, LlamaForCausalLM, Trainer
        >>> from tsloss_fast.analysis import read_record
        >>> from tsloss_fast.tuning import add_soft_prompt
        >>> sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        >>> model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes))
        >>> model = add_soft_prompt(model, torch.randn(5, 8))
        >>> data = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 4
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     arguments = TrainingArguments(
        ...         folder, max_steps=2, report_to="none", save_strategy="no", use_cpu=True
        ...     )
        ...     trainer = Trainer(model=model, args=arguments, train_dataset=data)
        ...     callback = PromptTopologyCallback().attach(trainer)
        ...     result = trainer.train()  # doctest: +ELLIPSIS
        ...     record = read_record(folder)
        {...}
        >>> record.steps().tolist()
        [0, 1, 2]
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
        self.last_barcode = LastBarcode()
        self._path = path
        self._clouds = clouds
        self._options = options
        self._attached = False
        self._newest: dict[str, float] = {}
        # Every process keeps the schedule: they gather a sharded prompt together.
        self._due = schedule("every", options.get("every", 1))

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: the open record and its thread belong to this process."""
        state = self.__dict__ | {"tracker": None, "_newest": {}}
        del state["_due"], state["last_barcode"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.last_barcode = LastBarcode()
        self._due = schedule("every", self._options.get("every", 1))

    def attach(self, trainer: Any) -> PromptTopologyCallback:
        """Join the trainer's callbacks, before its reporters; returns itself."""
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        callbacks.insert(0, self)
        self._attached = True
        return self

    def watches(self, clouds: Callable[[nn.Module], Tensor]) -> bool:
        """Whether the clouds that this function gives are those that are recorded."""
        return self._clouds == clouds

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
        # On every process: what is sharded is gathered by all of them together.
        points = self._points(model)
        options = dict(self._options)
        if self._clouds is prompt_clouds:
            with _without_dropout(getattr(unwrap(model), "prompt_encoder", None)):
                options.setdefault("clouds", cloud_names(unwrap(model)))
        self._newest = {}
        if not state.is_world_process_zero:
            return
        if self.tracker is not None:
            self.tracker.close()
        path = Path(str(args.output_dir) if self._path is None else self._path)
        file = path if path.suffix == ".arrows" else path / RECORD
        resumed = state.global_step or None
        if resumed is None and file.exists():
            aside = put_aside(file)
            warnings.warn(
                f"{file} is the record of another training: it is now {aside.name}",
                UserWarning,
                stacklevel=2,
            )
        name = getattr(getattr(unwrap(model), "config", None), "_name_or_path", None) or None
        options["metadata"] = {"model": name} | dict(options.get("metadata") or {})
        self.tracker = TopologyTracker(
            file, resume=resumed, resume_points=points if resumed else None, **options
        )
        if resumed is None:
            self._take(self.tracker, 0, points, keep=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        last = state.global_step >= state.max_steps > 0
        if self._due(state.global_step) or last:
            self._record(kwargs["model"], state.global_step, keep=last)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Another callback may have stopped the training after its step was recorded, or not.
        if not control.should_training_stop or state.global_step >= state.max_steps > 0:
            return
        if not self._due(state.global_step):
            self._record(kwargs["model"], state.global_step, keep=True)
        elif self.tracker is not None:
            self._guarded(self.tracker.keep_last)

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
            self._guarded(self.tracker.flush)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.tracker is not None:
            self._guarded(self.tracker.close)

    def _record(self, model: Any, step: int, keep: bool) -> None:
        points = self._points(model)
        tracker = self.tracker
        if tracker is not None:
            self._guarded(lambda: self._take(tracker, step, points, keep))

    def _take(self, tracker: TopologyTracker, step: int, points: Tensor, keep: bool) -> None:
        euclidean = self._options.get("metric", "euclidean") == "euclidean"
        h0 = self.last_barcode.of(points) if euclidean else None
        self._newest = tracker.record(step, points, keep=keep, h0=h0) or {}

    def _guarded(self, action: Callable[[], None]) -> None:
        """Watching must not end the training: a full disk ends the record alone."""
        try:
            action()
        except Exception as error:
            self.tracker, self._newest = None, {}
            warnings.warn(
                f"the topology is not recorded from here on: {type(error).__name__}: {error}",
                UserWarning,
                stacklevel=2,
            )

    @torch.no_grad()
    def _points(self, model: Any) -> Tensor:
        bare = unwrap(model)
        with _without_dropout(getattr(bare, "prompt_encoder", None)):
            # Once more for what the user's function gives: it may be sharded too.
            return prompt_clouds(self._clouds(bare))


@contextlib.contextmanager
def _without_dropout(encoder: nn.Module | None) -> Iterator[None]:
    """With the prompt's encoder in eval mode: what is watched is no sample, and draws no number."""
    training = [m for m in encoder.modules() if m.training] if encoder is not None else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
