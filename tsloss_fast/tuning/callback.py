"""The topology of the prompt, recorded while a transformers Trainer trains it."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from tsloss_fast.tuning.recorder import TopologyRecorder

__all__ = ["PromptTopologyCallback"]


class PromptTopologyCallback(TopologyRecorder, TrainerCallback):
    """Records the topology of the prompt before the first optimizer step and after each one.

    The record is `topology.arrows` in the Trainer's output folder; `tsloss report` reads it
    together with the Trainer's own log. With each log of the training loss go the newest values as
    `topology/mean_lifetime` and so on (`train/topology/mean_lifetime` in TensorBoard).

    Args:
        path: where to record; the Trainer's `output_dir` by default.
        clouds: from the unwrapped model to points (B, N, D) or (N, D), or to a list of such
            tensors; `prompt_clouds` by default, and `lora_clouds` is another one. Clouds of
            different widths are recorded in the widest space, where 0 fills what a narrow one
            lacks: no distance changes.
        names: of the clouds, in a report; those of `cloud_names` for the prompt.
        log: the values for the log. By default the three that say most: the mean lifetime, which is
            the scale that the loss does not see; the coefficient of variation and the redundancy,
            of which the loss is made. `"all"` for all of them and `()` for none. The record has
            everything.
        options: of `TopologyTracker`: `every`, `h1_every`, `points_every`, `metric`, …

    A Trainer that resumes from a checkpoint goes on with the record from that step. One that starts
    again where a record lies puts the old one aside as `topology-001.arrows` and says so. Under
    several processes all of them look at the model (it may be sharded) and the first one records.
    An encoder of the prompt (P-tuning) is run in eval mode. Should recording fail, that is said
    once and the training goes on without; a checkpoint waits for the H1 that was begun.

    A pickled or copied callback has the settings of the first one and no open record; it begins to
    record when a training begins.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
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
        ...     watched = dict(train_dataset=data, callbacks=[PromptTopologyCallback()])
        ...     result = Trainer(model, arguments, **watched).train()  # doctest: +ELLIPSIS
        ...     record = read_record(folder)
        {...}
        >>> record.steps().tolist()
        [0, 1, 2]
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._go_before_reporters()
        folder, writes = args.output_dir, state.is_world_process_zero
        self._begin(kwargs["model"], state.global_step, folder, writes)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps > 0
        if self._due(state.global_step) or last:
            self._record(kwargs["model"], state.global_step, keep=last)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Another callback may have stopped the training after its step was recorded, or not.
        if control.should_training_stop:
            self._keep(kwargs["model"], state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        if "loss" not in logs:
            return
        logs.update(self._newest)
        # The Trainer wrote its history before it asked.
        if state.log_history and "loss" in state.log_history[-1]:
            state.log_history[-1].update(self._newest)

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self._finish("flush")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._finish("close")

    def _go_before_reporters(self) -> None:
        """Become the first of the Trainer's callbacks: each reporter sends the values that it finds
        in its turn, and the Trainer puts its own reporters first.

        A callback is not given the list that it stands in, so the list is taken from the frame of
        the handler that called. Without such a frame `state.log_history` alone gets the values.
        """
        frame = inspect.currentframe()
        while frame is not None:
            handler = frame.f_locals.get("self")
            if isinstance(handler, CallbackHandler) and self in handler.callbacks:
                # The handler's loop over the list stays where it is, behind this place.
                handler.callbacks.remove(self)
                handler.callbacks.insert(0, self)
                return
            frame = frame.f_back
