"""The topology of the prompt, recorded while Lightning trains it."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import nn

from tsloss_fast.tuning.clouds import prompt_clouds
from tsloss_fast.tuning.recorder import TopologyRecorder

__all__ = ["LightningTopologyCallback"]

_Callback = object
if not TYPE_CHECKING:
    _package = next(filter(find_spec, ("lightning", "pytorch_lightning")), None)
    _Callback = importlib.import_module(_package).Callback if _package else object


class LightningTopologyCallback(TopologyRecorder, _Callback):
    """Records the topology of the prompt for a Trainer of `lightning` or `pytorch_lightning`.

    The arguments are those of `PromptTopologyCallback`. The record lies in the Trainer's
    `default_root_dir`; a function of clouds is given the LightningModule, and `prompt_clouds` the
    peft model in it. The chosen values go to the logger as `topology/mean_lifetime` and so on. Add
    the loss in `training_step`. Without Lightning, ModuleNotFoundError names the command.

    Example:
        >>> from tsloss_fast import TSLoss
        >>> from tsloss_fast.tuning import prompt_clouds
        >>> ts_loss = TSLoss()
        >>> def training_step(self, batch, batch_index):  # of a LightningModule with self.model
        ...     task_loss = self.model(**batch).loss
        ...     topological = ts_loss(prompt_clouds(self.model))
        ...     self.log_dict({"task_loss": task_loss, "tsloss": topological})
        ...     return task_loss + 10.0 * topological
        >>> callback = LightningTopologyCallback(every=5)  # L.Trainer(callbacks=[callback])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if _Callback is object:
            raise ModuleNotFoundError(
                "LightningTopologyCallback needs lightning, not installed here; install it with: "
                'pip install "lightning>=2.4"',
                name="lightning",
            )
        super().__init__(*args, **kwargs)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        folder, writes = trainer.default_root_dir, trainer.is_global_zero
        self._begin(self._watched(pl_module), trainer.global_step, folder, writes)
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        step, last = trainer.global_step, trainer.global_step >= trainer.max_steps > 0
        # An accumulated batch ends no step.
        if step > self._step and (self._due(step) or last):
            self._record(self._watched(pl_module), step, keep=last)
        self._step = step
        if self._newest:
            pl_module.log_dict(self._newest, rank_zero_only=True)

    def on_save_checkpoint(self, *args: Any) -> None:
        self._finish("flush")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._keep(self._watched(pl_module), trainer.global_step)
        self._finish("close")

    def on_exception(self, *args: Any) -> None:
        self._finish("close")

    def _watched(self, module: nn.Module) -> nn.Module:
        """Return the argument of the function of clouds: the peft model, or the whole module."""
        found = (m for m in module.modules() if isinstance(getattr(m, "peft_config", None), dict))
        return next(found, module) if self._clouds is prompt_clouds else module
