"""Refusals, before the training starts, of what transformers and peft cannot train."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from torch import nn

from tsloss_fast.analysis.analyze.sources import PREFIXED, PREPENDED
from tsloss_fast.tuning.answers import EncodedItem
from tsloss_fast.tuning.clouds import adapter_config, peft_method
from tsloss_fast.tuning.tasks import Item

__all__ = ["refuse_long_items", "refuse_other_models", "refuse_what_cannot_train"]


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


def refuse_other_models(model: Any) -> None:
    """Raise ValueError for a model that `tune` cannot run: an encoder-decoder, or one without its
    weights in memory."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"{type(model).__name__} is an encoder-decoder, and tune takes causal language models "
            "alone: give it a prompt by add_soft_prompt, and train it with TSLossMixin and "
            "Seq2SeqTrainer"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} is offloaded or not loaded (it has weights on the device "
            "'meta'), and tune runs a model on one device: load it whole"
        )


def refuse_long_items(
    model: Any, items: Sequence[Item], encoded: Sequence[EncodedItem], virtual_tokens: int
) -> None:
    """Raise ValueError if an item, with the prompt before it, is longer than what the model reads.

    `items` and `encoded` are the same items as text and as tokens. Models without a number of
    positions, such as state-space models, have no such limit.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return
    lengths = [virtual_tokens + len(item.inputs) for item in encoded]
    if not lengths or max(lengths) <= positions:
        return
    longest = lengths.index(max(lengths))
    item, tokens = items[longest], encoded[longest]
    too_many = sum(length > positions for length in lengths)
    raise ValueError(
        f"{too_many} of {len(items)} items do not fit into the {positions} positions of this "
        f"model: the longest, {shorten(item.question, 60)!r} -> {shorten(item.answer, 30)!r}, "
        f"needs {max(lengths)}: {virtual_tokens} virtual tokens, {len(tokens.question)} of the "
        f"question and {len(tokens.answer)} of the answer, whose last is not read. Leave the item "
        "out or shorten it, use fewer virtual tokens, or use a model with more positions"
    )


def _logits_are_longer_than_labels(config: Any, method: str) -> bool:
    task = getattr(config.task_type, "value", config.task_type)
    # An encoder-decoder's logits are the decoder's, which multitask tuning alone puts tokens
    # in front of.
    prepended = {"MULTITASK_PROMPT_TUNING"} if task == "SEQ_2_SEQ_LM" else PREPENDED
    return task in ("CAUSAL_LM", "TOKEN_CLS", "SEQ_2_SEQ_LM") and method in prepended
