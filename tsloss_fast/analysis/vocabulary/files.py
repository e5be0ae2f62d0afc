"""The table of embeddings and the tokens of a model that is on this machine, and nothing more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsloss_fast._terminal import require
from tsloss_fast.analysis.analyze.quantised import EMBEDDINGS, gguf_tensors, open_gguf
from tsloss_fast.analysis.analyze.stored import SourceError
from tsloss_fast.analysis.analyze.tensor_files import INDEX, open_tensors
from tsloss_fast.analysis.vocabulary.models import (
    SMOLLM2,
    ModelNotAvailableError,
    gguf_file,
    load_model,
)
from tsloss_fast.analysis.vocabulary.names import (
    readable,
    text_of_byte_level,
    text_of_sentencepiece,
)

__all__ = ["read_vocabulary"]

# GGUF's types of tokens that stand for no text: unknown, control, unused.
_GGUF_WITHOUT_TEXT = (2, 3, 5)
_GGUF_ADDED = 4
# These architectures multiply their embeddings by nothing, so their models need not be looked at.
_UNSCALED = ("llama", "qwen2", "qwen3", "phi3", "gpt2")
_GGUF_FIELDS = (
    "general.architecture",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
)
_WEIGHTS = "model.safetensors"


def read_vocabulary(name: str) -> tuple[Tensor, list[str | None]]:
    """The input embeddings (V, D) as the model sees them, and a readable name for each token.

    Raises:
        ModelNotAvailableError, ValueError, TypeError: as `load_vocabulary`.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    if not name.strip():
        raise ValueError(f"name is empty: pass a folder, a .gguf file, a Hub name or {SMOLLM2!r}")
    file = gguf_file(name)
    if file is not None:
        return _from_gguf(file)
    require("reading the vocabulary of a model's folder", "tuning", "transformers")
    return _from_folder(_local_folder(name), name)


def _from_gguf(file: Path) -> tuple[Tensor, list[str | None]]:
    try:
        reader = open_gguf(file)
        fields = {
            name: field.contents() for name, field in reader.fields.items() if name in _GGUF_FIELDS
        }
        table = next((t for t in gguf_tensors(file, reader) if t.name == EMBEDDINGS), None)
    except SourceError as error:
        raise ModelNotAvailableError(str(error)) from error
    except (ValueError, LookupError, OSError) as error:
        raise ModelNotAvailableError(
            f"{file} cannot be read as a GGUF file ({error}): fetch it again"
        ) from error
    if table is None or "tokenizer.ggml.tokens" not in fields:
        return _from_model(str(file))
    try:
        embeddings = table.numbers()
    except SourceError as error:
        raise ModelNotAvailableError(str(error)) from error
    if fields.get("general.architecture") not in _UNSCALED:
        require(f"reading the vocabulary of {file.name}", "tuning", "transformers")
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(
            str(file.parent), gguf_file=file.name, trust_remote_code=False
        )
        embeddings = _scaled(embeddings, _on_meta(config).get_input_embeddings())

    byte_level = fields.get("tokenizer.ggml.model") == "gpt2"
    tokens = fields["tokenizer.ggml.tokens"]
    kinds = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    names: list[str | None] = []
    for token, kind in zip(tokens, kinds, strict=True):
        added = kind == _GGUF_ADDED
        names.append(None if kind in _GGUF_WITHOUT_TEXT else _name(token, byte_level, added))
    return embeddings, names[: len(embeddings)]


def _local_folder(name: str) -> Path:
    """The folder, or that of the Hub model in the local cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelNotAvailableError(
            f"the model {name!r} is neither a folder nor in the local cache of the Hugging Face "
            "Hub. Only models on this machine are read here: pass a folder written by "
            "save_pretrained, a .gguf file, or load it once with a network connection "
            "(tsloss_fast.tuning.load_model)"
        ) from error


def _from_folder(folder: Path, name: str) -> tuple[Tensor, list[str | None]]:
    from transformers import AutoConfig, AutoTokenizer

    try:
        # Runs name their models. Code in one is not executed, and nobody is asked to allow it.
        options = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(str(folder), **options)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ModelNotAvailableError(
            f"the model {name!r} is not complete on this machine ({reason}): pass a folder written "
            "by save_pretrained (model and tokenizer)"
        ) from error
    model = _on_meta(config)
    embeddings = _from_safetensors(folder, model)
    if embeddings is None:
        return _from_model(str(folder))
    return _scaled(embeddings, model.get_input_embeddings()), _names(tokenizer, len(embeddings))


def _from_model(name: str) -> tuple[Tensor, list[str | None]]:
    """The long way, for files that only transformers can read."""
    model, tokenizer = load_model(name)
    module: Any = model.get_input_embeddings()
    embeddings: Tensor = module.weight.detach()
    return _scaled(embeddings, module), _names(tokenizer, len(embeddings))


def _scaled(embeddings: Tensor, module: Any) -> Tensor:
    """What the module's forward gives for every row: some (Gemma's) multiply by a constant."""
    scale = getattr(module, "scalar_embed_scale", None)
    if scale is None:
        scale = getattr(module, "embed_scale", None)
    if scale is None or float(scale) == 1.0:
        return embeddings
    # In float32: half types would round each product.
    wide = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    return wide * torch.tensor(float(scale), dtype=wide.dtype)


def _names(tokenizer: Any, rows: int) -> list[str | None]:
    special = set(tokenizer.all_special_ids)
    added = tokenizer.added_tokens_decoder
    special.update(index for index, token in added.items() if token.special)
    byte_level = _is_byte_level(tokenizer)
    names: list[str | None] = [None] * rows
    for token, index in tokenizer.get_vocab().items():
        if index < rows and index not in special:
            names[index] = _name(token, byte_level, index in added)
    return names


def _name(token: str, byte_level: bool, added: bool) -> str:
    """Not by decoding: a tokenizer's decoder drops the space that begins a text."""
    if added:
        return readable(token)
    return readable(text_of_byte_level(token) if byte_level else text_of_sentencepiece(token))


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether the tokenizer's decoder, or a part of it, turns GPT-2's characters into bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hasattr(tokenizer, "byte_decoder")
    decoder = backend.decoder
    return decoder is not None and '"ByteLevel"' in decoder.__getstate__().decode()


def _on_meta(config: Any) -> Any:
    """The model without its weights: what its modules are called and how they are set up."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]


def _from_safetensors(folder: Path, model: Any) -> Tensor | None:
    """The input embeddings' tensor alone; None if it is not there by a name that is surely it."""
    module = model.get_input_embeddings()
    weight = getattr(module, "weight", None)
    parts = [name for name, found in model.named_modules() if found is module]
    if weight is None or not parts:
        return None
    # The base model alone is saved without its prefix, and a model with one may be the base.
    full = f"{parts[0]}.weight"
    prefix = f"{model.base_model_prefix}."
    files = [folder / _WEIGHTS, folder / f"{_WEIGHTS}{INDEX}"]
    found = [file for file in files if file.is_file()]
    if not found:
        return None
    try:
        tensors = {tensor.name: tensor for tensor in open_tensors(found[0])}
        for name in (full, full.removeprefix(prefix), prefix + full):
            table = tensors.get(name)
            if table is not None:
                fits = table.shape == tuple(weight.shape) and table.problem is None
                return table.numbers() if fits else None
    except SourceError as error:
        raise ModelNotAvailableError(str(error)) from error
    return None
