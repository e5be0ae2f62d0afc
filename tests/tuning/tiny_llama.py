"""A language model and a tokenizer small enough to build in every test, with nothing downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

NEEDS = 'the extra "tuning" is not installed: pip install "tsloss-fast[tuning]"'
SPECIAL = ("<unk>", "<pad>", "<s>", "</s>")
TEXT = """
True False not and or is ( ) [ ] . , : ; ? ! x a an the of to in it was film movie review sentiment
positive negative good bad great terrible yes no question answer Question Answer
0 1 2 3 4 5 6 7 8 9
"""
WORDS = TEXT.split()
# Questions and answers of unequal length, so that padding, blocks and alignment can go wrong.
UNEVEN_ITEMS = (
    ("not ( True ) and False is", " False"),
    ("True is", " True"),
    ("( not not True ) or ( not False ) is", " yes yes no"),
    ("question", " good film"),
)
VOCABULARY = (*SPECIAL, *WORDS, *(f"w{i}" for i in range(128 - len(SPECIAL) - len(WORDS))))


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words and punctuation, split at spaces; anything else is `<unk>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )


def make_tiny_model(seed: int = 0) -> LlamaForCausalLM:
    """Two layers, hidden size 32, random weights that depend on the seed alone; in eval mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=VOCABULARY.index("<s>"),
        eos_token_id=VOCABULARY.index("</s>"),
        pad_token_id=VOCABULARY.index("<pad>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def save_tiny(folder: Path) -> Path:
    """The model and the tokenizer, as `save_pretrained` writes them."""
    make_tiny_model().save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    return folder
