"""The part of a prompt encoder that peft's checkpoints leave out.

peft saves the prompt that an encoder gives: enough to use it, not enough to go on training it.
These functions keep the rest in a file beside peft's; `TSLossTrainer` calls them by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tsloss_fast._files import whole_file
from tsloss_fast.tuning.clouds import adapter_config, peft_method, unwrap

__all__ = ["load_prompt_encoder", "save_prompt_encoder"]

ENCODER_FILE = "prompt_encoder.safetensors"


def save_prompt_encoder(
    model: nn.Module, folder: str | os.PathLike[str], adapter: str | None = None
) -> Path | None:
    """Write what training needs beyond peft's checkpoint: P-tuning's encoder, the projection of
    prefix tuning, CPT's change of the context.

    `model` may be wrapped, `folder` is created if missing, `adapter` is the active one by default.
    Returns the file, which appears whole or not at all, or None if peft's checkpoint is complete.

    Example:
        >>> import tempfile
        >>> from peft import PromptEncoderConfig, get_peft_model
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        >>> base = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes))
        >>> sizes = dict(num_virtual_tokens=5, encoder_hidden_size=8)
        >>> p_tuning = PromptEncoderConfig(task_type="CAUSAL_LM", **sizes)
        >>> model = get_peft_model(base, p_tuning)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)  # enough to use the prompt
        ...     written = save_prompt_encoder(model, folder).name
        ...     again = get_peft_model(model.get_base_model(), p_tuning)
        ...     load_prompt_encoder(again, folder)  # enough to go on training it
        >>> written
        'prompt_encoder.safetensors'
    """
    state = prompt_encoder_state(model, adapter)
    return write_tensors(Path(folder) / ENCODER_FILE, state) if state else None


def load_prompt_encoder(
    model: nn.Module, folder: str | os.PathLike[str], adapter: str | None = None
) -> None:
    """Read back what `save_prompt_encoder` wrote, with the same `model`, `folder` and `adapter`.

    Make the adapter with `get_peft_model` and the saved configuration: that of
    `PeftModel.from_pretrained` has no encoder to fill. A file that is damaged, or of another shape
    or method, raises ValueError and changes nothing in the model.
    """
    file = Path(folder) / ENCODER_FILE
    encoder = _incomplete_encoder(model, adapter)
    if encoder is None:
        raise ValueError("this model's prompt has no encoder to load; its peft checkpoint is whole")
    state = read_tensors(file)
    expected = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    if expected != found:
        names = expected.keys() | found.keys()
        differ = sorted(name for name in names if expected.get(name) != found.get(name))
        raise ValueError(
            f"{file} belongs to another prompt encoder: {', '.join(differ)} differ in name or "
            "shape; build the adapter with the configuration that was saved"
        )
    encoder.load_state_dict(state)


def prompt_encoder_state(model: nn.Module, adapter: str | None = None) -> dict[str, Tensor]:
    """The state to save; empty where peft's checkpoint is complete. Gathers the shards of a
    `DTensor`, so under FSDP2 every rank has to call it."""
    encoder = _incomplete_encoder(model, adapter)
    state = dict(encoder.state_dict()) if encoder is not None else {}
    if hasattr(encoder, "get_projection"):
        # peft's own save projects CPT's change in place: keep the value that training goes on from.
        state["delta_embedding.weight"] = encoder.get_projection()
    return {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in state.items()}


def is_projected_prefix(model: nn.Module, adapter: str | None = None) -> bool:
    """Whether peft writes this adapter's checkpoint in a shape that it cannot load again."""
    model = unwrap(model)
    config = adapter_config(model, adapter)[1]
    return peft_method(config) == "PREFIX_TUNING" and bool(config.prefix_projection)


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> Path:
    """Write a safetensors file that is whole or absent, whenever the process is killed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(file) as temporary:
        temporary.write_bytes(save(on_cpu))
    return file


def read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load(file.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error


def _incomplete_encoder(model: nn.Module, adapter: str | None) -> Any:
    """The encoder of a method whose peft checkpoint is not enough to go on from, or None."""
    model = unwrap(model)
    adapter, config = adapter_config(model, adapter)
    method = peft_method(config)
    incomplete = method in ("P_TUNING", "CPT") or is_projected_prefix(model, adapter)
    if not incomplete or config.inference_mode:
        return None
    encoders: Any = model.prompt_encoder
    return encoders[adapter]
