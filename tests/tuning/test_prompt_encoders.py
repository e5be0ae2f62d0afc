"""Prompt encoders are saved beside PEFT's checkpoint and come back, or are refused."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from peft_models import ENCODERS, make_peft, trainable

from tsloss_fast.tuning import load_prompt_encoder, prompt_clouds, save_prompt_encoder


@pytest.mark.parametrize("method", ENCODERS)
def test_a_prompt_encoder_is_saved_beside_peft_s_checkpoint_and_comes_back(method, tmp_path):
    model = make_peft(method)
    model.save_pretrained(tmp_path)
    assert save_prompt_encoder(model, tmp_path) == tmp_path / "prompt_encoder.safetensors"
    other = make_peft(method, seed=1)
    assert not torch.equal(prompt_clouds(other), prompt_clouds(model))
    load_prompt_encoder(other, tmp_path)
    # CPT's change is projected when it is saved, which rounds; the rest is the same to the bit.
    tolerance = {"rtol": 1e-6, "atol": 1e-8} if method == "context" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(prompt_clouds(other), prompt_clouds(model), **tolerance)
    for name, parameter in trainable(model).items():
        torch.testing.assert_close(
            dict(other.named_parameters())[name], parameter, **tolerance, msg=name
        )


@pytest.mark.parametrize("method", ["prompt", "multitask", "prefix", "adaption"])
def test_no_encoder_is_saved_where_peft_s_checkpoint_is_whole(method, tmp_path):
    model = make_peft(method)
    assert save_prompt_encoder(model, tmp_path) is None
    assert not list(tmp_path.iterdir())
    model.save_pretrained(tmp_path)
    other = make_peft(method, seed=1)
    other.load_adapter(tmp_path, "default", is_trainable=True)
    for name, parameter in trainable(model).items():
        assert torch.equal(dict(other.named_parameters())[name], parameter)


def test_a_damaged_or_foreign_encoder_is_refused_and_changes_nothing(tmp_path):
    model = make_peft("p_mlp")
    before = copy.deepcopy(model.prompt_encoder.state_dict())
    with pytest.raises(FileNotFoundError):
        load_prompt_encoder(model, tmp_path)
    save_prompt_encoder(make_peft("p_lstm"), tmp_path)
    with pytest.raises(ValueError, match=r"another prompt encoder.*lstm_head"):
        load_prompt_encoder(model, tmp_path)
    file = save_prompt_encoder(make_peft("p_mlp", seed=1), tmp_path)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        load_prompt_encoder(model, tmp_path)
    with pytest.raises(ValueError, match="no encoder to load"):
        load_prompt_encoder(make_peft("prompt"), tmp_path)
    for name, tensor in model.prompt_encoder.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_write_that_fails_leaves_the_old_encoder_and_no_rubbish(tmp_path, monkeypatch):
    file = save_prompt_encoder(make_peft("p_mlp"), tmp_path)
    old = file.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save_prompt_encoder(make_peft("p_mlp", seed=1), tmp_path)
    assert file.read_bytes() == old
    assert [f.name for f in tmp_path.iterdir()] == [file.name]
