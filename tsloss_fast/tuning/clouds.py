"""The virtual tokens of peft's prompt tuning methods as clouds, and a step's barcode of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tsloss_fast._batch import can_bypass_dispatcher, is_zero3_partitioned, refuse_partitioned
from tsloss_fast.analysis.analyze.sources import PREFIXED
from tsloss_fast.functional import H0Persistence, h0_persistence

__all__ = [
    "Clouds",
    "LastBarcode",
    "MeanSquaredNorm",
    "cloud_names",
    "cloud_parts",
    "one_batch",
    "prompt_clouds",
]

# The result of a function of clouds: points (N, D) or (B, N, D), or several such tensors.
Clouds = Tensor | Sequence[Tensor]

# Classes that keep the model in their child `module`. They and their subclasses are found by name,
# so that neither DeepSpeed nor another package has to be importable.
_WRAPPERS = {"AveragedModel", "DataParallel", "DeepSpeedEngine"}
_WRAPPERS |= {"DistributedDataParallel", "FullyShardedDataParallel"}


class MeanSquaredNorm(nn.Module):
    """The L2 baseline: the mean of ‖p_i‖² over the points of clouds (..., N, D)."""

    def forward(self, points: Tensor) -> Tensor:
        return points.square().sum(-1).mean()


def prompt_clouds(model: nn.Module | Tensor, adapter: str | None = None) -> Tensor:
    """The virtual tokens of a model as clouds of points, with their gradient.

    ================================  ==============================================
    peft method                       clouds
    ================================  ==============================================
    PROMPT_TUNING                     1: the embedding
    P_TUNING                          1: the output of the encoder
    MULTITASK_PROMPT_TUNING           one per task (and per encoder and decoder)
    CPT                               1: token embeddings plus the projected change
    PREFIX_TUNING (projected or not)  2 per layer: its keys and its values
    ADAPTION_PROMPT                   one per adapted layer
    ================================  ==============================================

    Args:
        model: a peft model, alone or wrapped (data parallelism, DeepSpeed, averaging,
            `torch.compile`); or an `nn.Embedding`; or a floating tensor of shape (N, D) or
            (B, N, D).
        adapter: the name of the peft adapter; the active one by default.

    Returns:
        (B, N, D), float64 if the prompt is float64 and float32 otherwise. Encoders run in float32
        with autocast off, because distances between bfloat16 points collapse. Parameters that FSDP2
        or DeepSpeed ZeRO-3 has sharded are gathered, and their gradient goes back to the shards.

    Raises:
        TypeError: neither a module nor a floating tensor.
        ValueError: the model has no virtual tokens (LoRA, or no adapter), the adapter is unknown,
            or the shape is not that of a cloud.

    Cost: one run of the prompt encoder where there is one, otherwise a view. Call it outside
    `model.forward`, once per training step.

    Example:
        >>> prompt = nn.Embedding(10, 16)
        >>> prompt_clouds(prompt).shape
        torch.Size([1, 10, 16])
    """
    if isinstance(model, Tensor):
        return _as_clouds(model)
    if not isinstance(model, nn.Module):
        raise TypeError(
            "prompt_clouds takes a peft model, an nn.Embedding or a tensor of shape (N, D) or "
            f"(B, N, D), got {type(model).__name__}"
        )
    model = unwrap(model)
    if isinstance(model, nn.Embedding):
        return _as_clouds(_table(model))

    adapter, config = adapter_config(model, adapter)
    method = peft_method(config)
    if method == "ADAPTION_PROMPT":
        return _adaption_clouds(model, adapter)
    encoders: Any = getattr(model, "prompt_encoder", None)
    if encoders is None or adapter not in encoders:
        raise ValueError(
            f"the adapter {adapter!r} is {method}, which has no virtual tokens, so there is no "
            "cloud to measure. Use a prompt tuning method of peft (add_soft_prompt adds one), or "
            "pass the points yourself: ts_clouds=lambda model: ... of shape (B, N, D)"
        )
    return _encoder_clouds(encoders[adapter], config, method)


def cloud_names(model: nn.Module, adapter: str | None = None) -> list[str]:
    """What each cloud of `prompt_clouds` is: "layer 3 keys", "task 1", "prompt".

    `model`, `adapter`, errors and cost are those of `prompt_clouds`.

    Example:
        >>> from peft import PrefixTuningConfig, get_peft_model
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=2)
        >>> model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes))
        >>> prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
        >>> cloud_names(get_peft_model(model, prefix))
        ['layer 0 keys', 'layer 0 values', 'layer 1 keys', 'layer 1 values']
    """
    with torch.no_grad():
        clouds = len(prompt_clouds(model, adapter))
    model = unwrap(model)
    if isinstance(model, nn.Embedding):
        return ["prompt"]
    config = adapter_config(model, adapter)[1]
    method = peft_method(config)
    if method in PREFIXED:
        kinds = ("keys", "values")
        return [f"layer {index // 2} {kinds[index % 2]}" for index in range(clouds)]
    if clouds == 1:
        return ["prompt"]
    if method != "MULTITASK_PROMPT_TUNING":
        return [f"layer {index}" for index in range(clouds)]
    if clouds == config.num_tasks:
        return [f"task {index}" for index in range(clouds)]
    parts = ("encoder", "decoder")
    return [f"task {index // 2} {parts[index % 2]}" for index in range(clouds)]


class LastBarcode:
    """The Euclidean barcode of the clouds that were asked for last, so that the loss and the record
    of a training step compute it once. Each training has its own, and frees the copy of the clouds.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, list[int] | None, H0Persistence] | None = None

    def of(self, points: Tensor, lengths: list[int] | None = None) -> H0Persistence | None:
        """Return the barcode of points (N, D) or (B, N, D), without gradient.

        The result is None where the barcode is not shared, so that each use computes its own and
        has its own error or warning: for points that are not finite, and for anything but ordinary
        float32 or float64 tensors on the CPU. On another device the comparison would wait for
        the device in the middle of a step, and a barcode there is asynchronous and cheap.
        """
        if points.dim() not in (2, 3) or not can_bypass_dispatcher(points):
            return None
        clouds = points.detach()
        clouds = clouds if clouds.dim() == 3 else clouds.unsqueeze(0)
        last = self._last
        # The numbers are compared, and not addresses or versions: optimizers and DeepSpeed write
        # through `.data`, and an encoder with dropout gives other points in training mode.
        same = last is not None and last[0].dtype == clouds.dtype and last[1] == lengths
        if last is None or not (same and torch.equal(last[0], clouds)):
            kept = clouds.clone(memory_format=torch.contiguous_format)
            try:
                last = kept, lengths, h0_persistence(kept, lengths=lengths)
            except ValueError:  # NaN, infinity, or a distance that overflows
                return None
            self._last = last
        h0 = last[2]
        return h0 if points.dim() == 3 else H0Persistence(h0.deaths[0], h0.edges[0])


def cloud_parts(points: Clouds) -> list[Tensor]:
    """Return points (N, D) or (B, N, D), or several such tensors, as a list of batches (B, N, D),
    whole and in at least float32."""
    parts = list(points) if isinstance(points, list | tuple) else [points]
    if not parts:
        raise ValueError("expected at least one cloud, got an empty list")
    return [_as_clouds(part) for part in parts]


def one_batch(parts: Sequence[Tensor]) -> tuple[Tensor, list[int] | None]:
    """Return batches (B, N, D) of several shapes as one, with the number of points of each cloud if
    they differ. Narrow clouds gain coordinates of 0, which change no distance."""
    if len(parts) == 1:
        return parts[0], None
    rows, width = (max(part.shape[axis] for part in parts) for axis in (1, 2))
    sizes = [size for part in parts for size in [part.shape[1]] * len(part)]
    padded = [
        pad(part.to(parts[0].device), (0, width - part.shape[2], 0, rows - part.shape[1]))
        for part in parts
    ]
    return torch.cat(padded), sizes if min(sizes, default=rows) < rows else None


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of data parallelism, of averaging and of `torch.compile`."""
    while True:
        # Registered children only: a peft model forwards unknown attributes to its base model.
        children = model._modules
        inner = children.get("_orig_mod")
        if inner is None and any(kind.__name__ in _WRAPPERS for kind in type(model).__mro__):
            inner = children.get("module")
        if inner is None:
            return model
        model = inner


def peft_method(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))


def adapter_config(model: nn.Module, adapter: str | None = None) -> tuple[str, Any]:
    """The name and the configuration of an adapter, the active one by default."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict) or not configs:
        raise ValueError(
            f"{type(model).__name__} carries no soft prompt: wrap it with "
            "add_soft_prompt(model, initial) or peft.get_peft_model, or pass the points yourself"
        )
    if adapter is None:
        active: Any = getattr(model, "active_adapter", None)
        adapter = active if isinstance(active, str) else next(iter(configs))
    if adapter not in configs:
        raise ValueError(f"there is no adapter {adapter!r}; the model has {sorted(configs)}")
    return adapter, configs[adapter]


def _encoder_clouds(encoder: Any, config: Any, method: str) -> Tensor:
    tokens, dim = config.num_virtual_tokens, config.token_dim
    # As in peft's get_prompt: at inference the embedding holds what the encoder once gave.
    frozen = config.inference_mode and method != "MULTITASK_PROMPT_TUNING"
    if method in PREFIXED:
        flat = _whole(_table(encoder.embedding)) if frozen else _run(encoder, tokens)[0]
        return flat.reshape(tokens, 2 * config.num_layers, dim).transpose(0, 1)
    if frozen or method == "PROMPT_TUNING":
        prompts = _as_clouds(_table(encoder.embedding))
    elif method == "CPT":
        prompts = _context_clouds(encoder)
    elif method == "MULTITASK_PROMPT_TUNING":
        total = tokens * (config.num_transformer_submodules or 1)
        tasks = torch.arange(config.num_tasks, device=encoder.embedding.weight.device)
        prompts = _run(encoder, total, tasks).reshape(-1, tokens, dim)
    elif method == "P_TUNING":
        prompts = _run(encoder, tokens * (config.num_transformer_submodules or 1))
    else:
        raise ValueError(
            f"prompt_clouds does not know the peft method {method}; pass the points yourself: "
            "ts_clouds=lambda model: ... of shape (B, N, D)"
        )
    # An encoder-decoder keeps a second prompt, which peft uses in multitask tuning alone.
    return prompts if method == "MULTITASK_PROMPT_TUNING" else prompts[:, :tokens]


def _run(encoder: nn.Module, total: int, tasks: Tensor | None = None) -> Tensor:
    """The encoder's output (tasks or 1, total, D) in at least float32."""
    parameters: dict[str, Tensor] = dict(encoder.named_parameters())
    device = next(iter(parameters.values())).device
    indices = torch.arange(total, device=device).expand(1 if tasks is None else len(tasks), -1)
    arguments = (indices,) if tasks is None else (indices, tasks)
    # DeepSpeed's hooks gather partitioned parameters in the forward of the encoder.
    gathered = any(map(is_zero3_partitioned, parameters.values()))
    whole = parameters if gathered else {n: _whole(p) for n, p in parameters.items()}
    with torch.autocast(device.type, enabled=False):
        if all(whole[name] is parameters[name] for name in parameters):
            output: Tensor = encoder(*arguments)
        else:
            output = torch.func.functional_call(encoder, whole, arguments)
    return _whole(output)


def _context_clouds(encoder: Any) -> Tensor:
    """CPT's prompt. Its own forward projects the change in place, which reading must not do."""
    delta = _whole(encoder.delta_embedding.weight)
    # The projection passes the gradient straight through, as in peft.
    projected = delta + (_whole(encoder.get_projection()) - delta).detach()
    return _as_clouds(_whole(encoder.embedding.weight) + projected)


def _adaption_clouds(model: Any, adapter: str) -> Tensor:
    active = getattr(model, "active_adapter", None)
    prompts = [_whole(m.adaption_prompt) for m in model.modules() if hasattr(m, "adaption_prompt")]
    if adapter != active or not prompts:
        raise ValueError(
            f"the adapter {adapter!r} is not active (the active one is {active!r}): peft takes "
            f"its layers out of the model; call model.set_adapter({adapter!r}) first"
        )
    return torch.cat(prompts)


def _as_clouds(points: Any) -> Tensor:
    if not isinstance(points, Tensor) or not points.is_floating_point():
        got = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise TypeError(f"the points must be a tensor of floating numbers, got {got}")
    whole = _whole(points)
    if whole.ndim not in (2, 3):
        raise ValueError(
            f"a prompt has the shape (N, D), or (B, N, D) for several; got {tuple(points.shape)}"
        )
    return whole if whole.ndim == 3 else whole.unsqueeze(0)


def _table(embedding: nn.Embedding) -> Tensor:
    """The rows of an embedding. DeepSpeed ZeRO-3 has them whole only inside the module's forward
    and backward, and accelerate loads an offloaded embedding there, so they are asked for there."""
    weight = embedding.weight
    if not (is_zero3_partitioned(weight) or weight.is_meta):
        return weight
    return look_up(embedding, torch.arange(embedding.num_embeddings, device="cpu"))


def look_up(embedding: nn.Module, ids: Tensor) -> Tensor:
    """The rows of the given numbers, as the module's forward gives them.

    A call and not a look at the weights: some models scale their embeddings in forward, and
    accelerate's hooks load an offloaded embedding there. Raises ValueError where no hook knows the
    values of weights on the device "meta".
    """
    weight: Any = embedding.weight
    rows: Tensor = embedding(ids if weight.is_meta else ids.to(weight.device))
    if rows.is_meta:
        raise ValueError(
            "the embeddings of this model are on the device 'meta' and have no values; load the "
            "weights first, for example with from_pretrained"
        )
    return rows


def _whole(tensor: Tensor) -> Tensor:
    """The tensor with all its shards and in at least float32; itself if nothing is to be done."""
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    refuse_partitioned(tensor, "prompt")
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor
