"""Prompt tuning with TSLoss on transformers and peft: models, prompts, a trainer, tasks.

Needs the extra `tuning`: pip install "tsloss-fast[tuning]". Each name is imported when it is first
used, because transformers takes seconds to import.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tsloss_fast._terminal import require

# This stands before the next import, which would name what analysis lacks, and its extra.
require(
    "tsloss_fast.tuning", "tuning", "transformers", "peft", "accelerate", "safetensors", "pyarrow"
)

from tsloss_fast.analysis.lazy import lazy_names  # noqa: E402

if TYPE_CHECKING:
    from tsloss_fast.tuning.callback import PromptTopologyCallback
    from tsloss_fast.tuning.clouds import cloud_names, prompt_clouds
    from tsloss_fast.tuning.encoder_state import load_prompt_encoder, save_prompt_encoder
    from tsloss_fast.tuning.lightning_callback import LightningTopologyCallback
    from tsloss_fast.tuning.models import ModelNotAvailableError, load_model
    from tsloss_fast.tuning.prompts import add_soft_prompt, initial_prompt
    from tsloss_fast.tuning.ready_clouds import hidden_states, lora_clouds
    from tsloss_fast.tuning.tasks import load_task
    from tsloss_fast.tuning.trainer import TSLossMixin, TSLossTrainer
    from tsloss_fast.tuning.tune import TuneConfig, tune

__all__ = [
    "LightningTopologyCallback",
    "ModelNotAvailableError",
    "PromptTopologyCallback",
    "TSLossMixin",
    "TSLossTrainer",
    "TuneConfig",
    "add_soft_prompt",
    "cloud_names",
    "hidden_states",
    "initial_prompt",
    "load_model",
    "load_prompt_encoder",
    "load_task",
    "lora_clouds",
    "prompt_clouds",
    "save_prompt_encoder",
    "tune",
]

_HOME = {
    "LightningTopologyCallback": "lightning_callback",
    "ModelNotAvailableError": "models",
    "PromptTopologyCallback": "callback",
    "TSLossMixin": "trainer",
    "TSLossTrainer": "trainer",
    "TuneConfig": "tune",
    "add_soft_prompt": "prompts",
    "cloud_names": "clouds",
    "hidden_states": "ready_clouds",
    "initial_prompt": "prompts",
    "load_model": "models",
    "load_prompt_encoder": "encoder_state",
    "load_task": "tasks",
    "lora_clouds": "ready_clouds",
    "prompt_clouds": "clouds",
    "save_prompt_encoder": "encoder_state",
    "tune": "tune",
}


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the submodule `tune` would put it over the function of the same name.
        if name == "tune" and isinstance(value, ModuleType):
            value = value.tune
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

__getattr__, __dir__ = lazy_names(globals(), _HOME)
