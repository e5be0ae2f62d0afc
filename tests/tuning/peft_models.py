"""The tiny model with each kind of soft prompt that PEFT has."""

from __future__ import annotations

import pytest
import torch
from tiny_llama import NEEDS, make_tiny_model
from torch import nn

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import peft

N, TASKS, LAYERS, DIM, KEY_DIM = 5, 3, 2, 32, 16
COMMON = {"task_type": "CAUSAL_LM", "num_virtual_tokens": N}
CONTEXT = {"cpt_token_ids": [5, 6, 7, 8, 9], "cpt_mask": [1] * N}
CONFIGS = {
    "prompt": lambda: peft.PromptTuningConfig(**COMMON),
    "p_mlp": lambda: peft.PromptEncoderConfig(**COMMON, encoder_hidden_size=16),
    "p_lstm": lambda: peft.PromptEncoderConfig(
        **COMMON, encoder_hidden_size=16, encoder_reparameterization_type="LSTM"
    ),
    "multitask": lambda: peft.MultitaskPromptTuningConfig(
        **COMMON, num_tasks=TASKS, prompt_tuning_init="RANDOM"
    ),
    "context": lambda: peft.CPTConfig(
        task_type="CAUSAL_LM", **CONTEXT, cpt_tokens_type_mask=[1, 2, 3, 4, 1]
    ),
    "prefix": lambda: peft.PrefixTuningConfig(**COMMON),
    "prefix_projected": lambda: peft.PrefixTuningConfig(
        **COMMON, prefix_projection=True, encoder_hidden_size=16
    ),
    "adaption": lambda: peft.AdaptionPromptConfig(
        task_type="CAUSAL_LM", adapter_len=N, adapter_layers=LAYERS
    ),
}


def dropout_encoder() -> peft.PromptEncoderConfig:
    """P-tuning whose encoder draws numbers in training mode."""
    return peft.PromptEncoderConfig(
        **COMMON,
        encoder_reparameterization_type="LSTM",
        encoder_hidden_size=16,
        encoder_dropout=0.3,
        encoder_num_layers=2,
    )


SHAPES = {
    "multitask": (TASKS, N, DIM),
    "prefix": (2 * LAYERS, N, KEY_DIM),
    "prefix_projected": (2 * LAYERS, N, KEY_DIM),
    "adaption": (LAYERS, N, DIM),
}
ENCODERS = ["p_mlp", "p_lstm", "context", "prefix_projected"]


def make_peft(method: str, seed: int = 0):
    """A peft model whose trainable parameters have moved away from their start."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(make_tiny_model(), CONFIGS[method]())
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def prompt_in_use(model, method: str) -> torch.Tensor:
    """The prompt as peft hands it to the base model, put into clouds by hand."""
    if method == "multitask":
        return model.get_prompt(TASKS, task_ids=torch.arange(TASKS))
    if method.startswith("prefix"):
        cache = model.get_prompt(1)
        parts = [part[0] for layer in cache.layers for part in (layer.keys, layer.values)]
        # (heads, N, size of a head) -> (N, heads × size)
        return torch.stack([part.transpose(0, 1).flatten(1) for part in parts])
    if method == "adaption":
        layers = model.get_base_model().model.layers
        return torch.cat([layer.self_attn.adaption_prompt for layer in layers])
    return model.get_prompt(1)


def gradient(points: torch.Tensor, model: nn.Module) -> dict[str, torch.Tensor | None]:
    parameters = trainable(model)
    weights = torch.linspace(-1, 1, points.numel()).reshape(points.shape)
    grads = torch.autograd.grad((weights * points**2).sum(), parameters.values(), allow_unused=True)
    return dict(zip(parameters, grads, strict=True))
