"""A model small enough to build in every test; see tests/tuning."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

# Before transformers is imported anywhere: no test may wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tuning"))

from tiny_llama import NEEDS, make_tiny_model, make_tiny_tokenizer, save_tiny


@pytest.fixture
def tiny() -> Any:
    """A fresh frozen model with its tokenizer, as a cohort takes it."""
    pytest.importorskip("transformers", reason=NEEDS)
    pytest.importorskip("peft", reason=NEEDS)
    from tsloss_fast.compare.model import Model

    return Model(make_tiny_model(), make_tiny_tokenizer())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and the tokenizer, as `save_pretrained` writes them."""
    pytest.importorskip("transformers", reason=NEEDS)
    return save_tiny(tmp_path_factory.mktemp("tiny_model"))
