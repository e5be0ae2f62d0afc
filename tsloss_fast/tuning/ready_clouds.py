"""Clouds beside the virtual tokens: the vectors of LoRA matrices, and hidden states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tsloss_fast.tuning.clouds import cloud_parts, unwrap

__all__ = ["hidden_states", "lora_clouds"]


def lora_clouds(
    model: nn.Module, matrix: str = "A", modules: str | None = None, adapter: str | None = None
) -> Tensor | list[Tensor]:
    """The r vectors of each LoRA matrix as a cloud, with their gradient, in the modules' order.

    Args:
        model: with LoRA adapters of peft on linear or convolution layers.
        matrix: "A" for its rows, as wide as the layer's input, or "B" for its columns, as wide as
            its output. LoRA begins with B = 0: a topological loss has no gradient there, where all
            points coincide.
        modules: a regular expression that the layer's name contains, such as "q_proj".
        adapter: the adapter's name; the active one by default.

    Returns:
        (B, r, D), or a list of such tensors, one for each shape, if ranks or widths differ. The
        trainers and callbacks of this package take both. ValueError if no layer has the matrix.

    Example:
        >>> from peft import LoraConfig, get_peft_model
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=2)
        >>> model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes))
        >>> lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
        >>> model = get_peft_model(model, lora)
        >>> lora_clouds(model, modules="q_proj").shape
        torch.Size([2, 4, 8])
        >>> [tuple(clouds.shape) for clouds in lora_clouds(model)]
        [(2, 4, 8), (2, 4, 12)]
    """
    if matrix not in ("A", "B"):
        raise ValueError(f"matrix: expected 'A' or 'B', got {matrix!r}")
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for name, layer in unwrap(model).named_modules():
        adapters: Any = getattr(layer, f"lora_{matrix}", {})
        chosen: Any = adapter or getattr(layer, "active_adapter", None)
        chosen = chosen if isinstance(chosen, str) else next(iter(chosen or ()), None)
        if chosen in adapters and re.search(modules or "", name):
            weight = adapters[chosen].weight.flatten(1)
            (part,) = cloud_parts(weight if matrix == "A" else weight.mT)
            shapes.setdefault(part.shape, []).append(part)
    if not shapes:
        raise ValueError(
            f"no module of {type(model).__name__} whose name contains {modules or ''!r} has a LoRA "
            f"matrix {matrix} of the adapter {adapter or 'in use'!r}"
        )
    clouds = [torch.cat(parts) for parts in shapes.values()]
    return clouds if len(clouds) > 1 else clouds[0]


class hidden_states:
    """The hidden states of a language model at some positions, as `ts_clouds` of a trainer: a cloud
    for each layer and each row of the batch, with the gradient of the forward that the task needs.

    Args:
        positions: a slice or a sequence: `slice(0, 10)` for ten virtual tokens before the text,
            `slice(-8, None)` for the last 8 positions, which are text if batches are padded on the
            left.
        layers: as in the model's `output_hidden_states`: 0 for the embeddings, i for the output of
            layer i, -1 for the last after its norm.

    Called with the model, it gives (len(layers) * rows, N, D) of the last forward with gradients
    once, and RuntimeError if there was none since the last call or nothing before these layers is
    trained. `TSLossMixin` attaches it to its model; in a loop of one's own, call `attach` before
    the first forward. It works under gradient checkpointing, but not if the model was compiled
    before.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=2)
        >>> model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes)).train()
        >>> clouds = hidden_states(slice(0, 5), layers=[1, -1]).attach(model)
        >>> output = model(torch.randint(16, (3, 9)))
        >>> clouds(model).shape
        torch.Size([6, 5, 8])
    """

    def __init__(self, positions: slice | Sequence[int], layers: Sequence[int] = (-1,)) -> None:
        self.positions = positions if isinstance(positions, slice) else [int(p) for p in positions]
        self.layers = list(layers)
        self._states: Sequence[Tensor] | None = None
        self._model: nn.Module | None = None
        self._hooks: list[Any] = []

    def attach(self, model: Any) -> hidden_states:
        """Watch the forwards of this model, and no longer those of another; returns itself."""
        model = unwrap(model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if base is not self._model:
            for hook in self._hooks:
                hook.remove()
            self._model = base
            self._hooks = [
                base.register_forward_pre_hook(self._before, with_kwargs=True),
                base.register_forward_hook(self._after),
            ]
        return self

    def __call__(self, model: nn.Module) -> Tensor:
        self.attach(model)
        states, self._states = self._states, None
        if states is None:
            raise RuntimeError(
                "hidden_states: the model has not run with gradients since the last use, or its "
                "output has no hidden_states; call attach(model) and the model's forward first"
            )
        points = torch.cat([states[layer][:, self.positions] for layer in self.layers])
        if torch.is_grad_enabled() and not points.requires_grad:
            raise RuntimeError(
                f"hidden_states: the layers {self.layers} have no gradient, since nothing before "
                "them is trained; choose later ones"
            )
        return points

    def _before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        self._states = None  # also if this forward fails
        training = torch.is_grad_enabled()
        return (args, {**kwargs, "output_hidden_states": True}) if training else None

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            self._states = getattr(output, "hidden_states", None)
