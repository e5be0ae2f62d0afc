"""The clouds in a folder that peft saved: its virtual tokens, or LoRA's vectors if asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsloss_fast.analysis.analyze.stored import (
    DamagedSource,
    NoCloudError,
    SourceError,
    StoredTensor,
    select,
)
from tsloss_fast.analysis.analyze.tensor_files import open_tensors

__all__ = ["CONFIG", "WEIGHTS", "adapter_clouds", "lora_vectors"]

CONFIG = "adapter_config.json"
# Old versions of peft pickled them.
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# As in tsloss_fast.tuning.clouds, which cannot be imported without transformers and peft.
_PREPENDED = ("PROMPT_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING")
_PREFIXED = ("PREFIX_TUNING", "CARTRIDGE")


def adapter_clouds(source: Path, key: str | None = None) -> Iterator[tuple[str, Tensor, str]]:
    """Labels and clouds of a saved adapter, each (N, D) or (B, N, D), and the types they have in
    the file.

    | peft method                    | clouds                                                  |
    |--------------------------------|---------------------------------------------------------|
    | PROMPT_TUNING, P_TUNING, CPT   | 1: `prompt_embeddings`, which holds the encoder's output |
    | MULTITASK_PROMPT_TUNING        | one per task                                            |
    | PREFIX_TUNING, CARTRIDGE       | 2 per layer: its keys and its values                    |
    | ADAPTION_PROMPT                | one per adapted layer                                   |
    | LoRA and others                | only tensors chosen with `key`; see `lora_vectors`      |

    These are the clouds that `tsloss_fast.tuning.prompt_clouds` gives of the model.

    Args:
        source: a folder with `adapter_config.json` and `adapter_model.safetensors` or, if there is
            none, `adapter_model.bin`; or one of these two files.
        key: a tensor's name or a pattern; for methods with virtual tokens it is not needed, and
            gives the tensors as they are stored.

    Raises:
        DamagedSource: a file is missing, cut off, or does not fit the configuration.
        NoCloudError: the method has no virtual tokens and `key` is None, or the weights contain
            Python objects, which are never loaded.
    """
    folder, files = source.parent, [source]
    if source.is_dir():
        folder, files = source, [source / name for name in WEIGHTS]
    config = _config(folder)
    found = [file for file in files if file.exists()]
    if not found:
        raise DamagedSource(f"{folder} has {CONFIG} but no {' or '.join(WEIGHTS)}: save it again")
    weights = found[0]
    tensors = open_tensors(weights)
    method = str(config.get("peft_type"))
    if key is not None:
        for tensor in select(weights, tensors, key):
            yield lora_vectors(tensor)
    elif method == "ADAPTION_PROMPT":
        for tensor in select(weights, tensors, "*adaption_prompt"):
            yield tensor.name, tensor.numbers(), tensor.stored
    elif method not in (*_PREPENDED, *_PREFIXED):
        raise NoCloudError(
            f"{folder} is an adapter of the method {method}, which has no virtual tokens: choose "
            "tensors with --key, for LoRA '*lora_A*' (rows) or '*lora_B*' (columns)"
        )
    else:
        by_name = {tensor.name: tensor for tensor in tensors}
        yield from _virtual_tokens(weights, method, config, by_name)


def lora_vectors(tensor: StoredTensor) -> tuple[str, Tensor, str]:
    """A label and the cloud (r, D) of LoRA's vectors: r rows of A (r, in), r columns of B (out, r).

    Each update is a sum of r products of a column of B and a row of A, so these are the vectors
    that can come close to each other. The matrix of another name is returned unchanged. The third
    item is the type that the numbers have in the file.
    """
    name, numbers = tensor.name, tensor.numbers()
    if numbers.dim() == 2 and ("lora_A" in name or "lora_embedding_A" in name):
        name = f"{name} rows"
    elif numbers.dim() == 2 and ("lora_B" in name or "lora_embedding_B" in name):
        name, numbers = f"{name} columns", numbers.T
    return name, numbers, tensor.stored


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except ValueError as error:
        raise DamagedSource(f"{folder / CONFIG} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise DamagedSource(f"{folder / CONFIG} is damaged: no JSON object")
    return config


def _virtual_tokens(
    weights: Path, method: str, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> Iterator[tuple[str, Tensor, str]]:
    saved = tensors.get("prompt_embeddings")
    if saved is None or (problem := saved.unfit(dims=(2,))) is not None:
        found = f"it holds {', '.join(tensors)}" if saved is None else f"it {problem}"
        raise DamagedSource(
            f"{weights}: {method} keeps a tensor prompt_embeddings (N, D), but {found}"
        )
    prompt, stored = saved.numbers(), saved.stored
    count, width = prompt.shape
    tokens = _number(config, "num_virtual_tokens", count, weights)
    if method in _PREFIXED:
        layers = _number(config, "num_layers", 0, weights)
        dim = _number(config, "token_dim", width // max(2 * layers, 1), weights)
        if (count, width) != (tokens, 2 * layers * dim):
            raise DamagedSource(
                f"{weights}: prompt_embeddings has the shape {tuple(prompt.shape)}, but "
                f"{CONFIG} says {tokens} tokens of 2 × {layers} layers × {dim}"
            )
        clouds = prompt.reshape(tokens, 2 * layers, dim).transpose(0, 1)
        for index, cloud in enumerate(clouds):
            # The order of peft's past_key_values: keys and values of a layer after each other.
            yield f"layer {index // 2} {('keys', 'values')[index % 2]}", cloud, stored
    elif method == "MULTITASK_PROMPT_TUNING":
        for label, cloud in _tasks(weights, tensors, prompt, tokens):
            yield label, cloud, stored
    else:
        # An encoder-decoder keeps a second prompt, which peft uses in multitask tuning alone.
        yield "prompt_embeddings", prompt[:tokens], stored


def _tasks(
    weights: Path, tensors: Mapping[str, StoredTensor], prompt: Tensor, tokens: int
) -> Iterator[tuple[str, Tensor]]:
    """Each task's prompt is the shared one times a product of low rank, entry by entry."""
    try:
        # In at least float32, as everything that is computed.
        factors = (tensors[f"prefix_task_{name}"].numbers() for name in ("cols", "rows"))
        columns, rows, shared = (
            t.to(torch.promote_types(t.dtype, torch.float32)) for t in (*factors, prompt)
        )
        prompts = shared * (columns @ rows)
    except (KeyError, RuntimeError) as error:
        raise DamagedSource(f"{weights}: the factors of the tasks do not fit: {error}") from error
    for task, both in enumerate(prompts):
        for part, cloud in enumerate(both.split(tokens)):
            name = f"task {task}"
            yield name if len(both) == tokens else f"{name} part {part}", cloud


def _number(config: Mapping[str, Any], name: str, default: int, weights: Path) -> int:
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or value < 0:
        raise SourceError(f"{weights.parent / CONFIG}: {name} is {value!r}, no number")
    return value
