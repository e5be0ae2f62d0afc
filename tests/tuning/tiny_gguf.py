"""A file of llama.cpp with a model small enough to write in every test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_llama import NEEDS


def write_tiny_gguf(file: Path, big: bool = False) -> torch.Tensor:
    """A llama of one layer with a byte-level vocabulary; returns its embeddings. With `big`, the
    file is for machines that begin a number with its largest byte."""
    gguf = pytest.importorskip("gguf", reason=NEEDS)
    tokens = ["<unk>", "<s>", "</s>", *map(chr, range(33, 126)), "Ġ", "is"]
    dim, heads, hidden = 32, 4, 64
    order = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(str(file), "llama", endianess=order)
    writer.add_context_length(64)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["i s"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    generator = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (len(tokens), dim), "output": (len(tokens), dim)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{name}"] = (dim, dim)
    shapes |= {"blk.0.ffn_gate": (hidden, dim), "blk.0.ffn_up": (hidden, dim)}
    shapes["blk.0.ffn_down"] = (dim, hidden)
    tensors = {n: torch.randn(s, generator=generator) * 0.1 for n, s in shapes.items()}
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        tensors[name] = torch.ones(dim)
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors["token_embd"]
