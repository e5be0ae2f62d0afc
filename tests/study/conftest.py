"""Fixtures of the tiny language model of tests/tuning."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

# Before transformers is imported anywhere: no test may wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tuning"))

from tiny_llama import make_tiny_model, make_tiny_tokenizer, save_tiny

# The study needs the extras tuning and study.
NEEDED = ("transformers", "peft", "yaml", "pandas", "scipy", "matplotlib", "tqdm")
collect_ignore_glob = ["test_*.py"] if not all(map(importlib.util.find_spec, NEEDED)) else []


@pytest.fixture
def tiny() -> tuple[Any, Any]:
    """A fresh frozen model and its tokenizer, as `train` takes them."""
    return make_tiny_model().requires_grad_(False), make_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and the tokenizer, as `save_pretrained` writes them."""
    return save_tiny(tmp_path_factory.mktemp("tiny_model"))
