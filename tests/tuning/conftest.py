"""Fixtures of the tiny language model; it and its tokenizer are built in `tiny_llama`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Set before transformers is imported: a test must never wait for a network that may not be there.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tiny_llama import NEEDS, UNEVEN_ITEMS, make_tiny_model, make_tiny_tokenizer, save_tiny

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from tsloss_fast.tuning.answers import EncodedItem


@pytest.fixture
def tiny_model() -> LlamaForCausalLM:
    """A fresh model in every test, always with the same weights."""
    pytest.importorskip("transformers", reason=NEEDS)
    return make_tiny_model()


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    pytest.importorskip("transformers", reason=NEEDS)
    return make_tiny_tokenizer()


@pytest.fixture
def items(tiny_tokenizer: PreTrainedTokenizerFast) -> list[EncodedItem]:
    """Questions and answers of several lengths, as token numbers."""
    from tsloss_fast.tuning.answers import encode_items
    from tsloss_fast.tuning.tasks import Item

    return encode_items([Item(*pair) for pair in UNEVEN_ITEMS], tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and the tokenizer, as `save_pretrained` writes them."""
    pytest.importorskip("transformers", reason=NEEDS)
    return save_tiny(tmp_path_factory.mktemp("tiny_model"))
