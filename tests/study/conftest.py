"""A tiny model, trials for it, and what a run is by hand; the model is that of tests/tuning."""

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

NEEDS = 'the extras are not installed: pip install "tsloss-fast[tuning,study]"'
for module in ("transformers", "peft", "yaml", "pandas", "scipy", "matplotlib", "tqdm"):
    pytest.importorskip(module, reason=NEEDS)

from tiny_llama import make_tiny_model, make_tiny_tokenizer, save_tiny  # noqa: E402


@pytest.fixture
def tiny() -> tuple[Any, Any]:
    """A fresh frozen model and its tokenizer, as `train` takes them."""
    return make_tiny_model().requires_grad_(False), make_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and the tokenizer, as `save_pretrained` writes them."""
    return save_tiny(tmp_path_factory.mktemp("tiny_model"))
