"""Combinations that transformers and peft cannot train, said before the training starts."""

from __future__ import annotations

from typing import Any

from torch import nn

from tsloss_fast.tuning.clouds import PREFIXED, PREPENDED, adapter_config, peft_method

__all__ = ["refuse_what_cannot_train"]


def refuse_what_cannot_train(model: nn.Module, args: Any, label_smoothing: float) -> None:
    """Raise ValueError for what would fail in the first step with a message about tensor sizes.

    Args:
        model: the bare model; one without a peft adapter passes.
        args: the `TrainingArguments`.
        label_smoothing: the factor that the trainer will smooth with.
    """
    if not getattr(model, "peft_config", None):
        return
    config = adapter_config(model)[1]
    method = peft_method(config)
    checkpointing = any(
        getattr(place, name, False)
        for name in ("gradient_checkpointing", "activation_checkpointing")
        for place in (args, *model.modules())
    )
    if method in PREFIXED and checkpointing:
        raise ValueError(
            f"{method} and gradient checkpointing do not work together: checkpointed layers drop "
            "the cache that carries the prefix. Pass gradient_checkpointing=False (TRL switches "
            "it on by itself), or use prompt tuning, which works with it"
        )
    if label_smoothing != 0 and _logits_are_longer_than_labels(config, method):
        raise ValueError(
            f"label_smoothing_factor={label_smoothing} does not work with {method}: the trainer "
            "smooths against the labels of the text alone, and the logits also cover the virtual "
            "tokens. Pass label_smoothing_factor=0, or a compute_loss_func that cuts the first "
            "num_virtual_tokens logits off"
        )


def _logits_are_longer_than_labels(config: Any, method: str) -> bool:
    task = getattr(config.task_type, "value", config.task_type)
    if task == "SEQ_2_SEQ_LM":
        # The logits are the decoder's, which only multitask tuning puts tokens in front of.
        return method == "MULTITASK_PROMPT_TUNING"
    return task in ("CAUSAL_LM", "TOKEN_CLS") and method in PREPENDED
