"""Nothing that a model's folder or a checkpoint holds is executed."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import NEEDS, make_tiny_model, save_tiny

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from transformers import TrainingArguments

from tsloss_fast.analysis.vocabulary.files import load_vocabulary
from tsloss_fast.tuning import (
    ModelNotAvailableError,
    TSLossTrainer,
    add_soft_prompt,
    load_model,
)

CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
pathlib.Path({marker!r}).touch()
class Config(LlamaConfig):
    model_type = "strange"
class Model(LlamaForCausalLM):
    config_class = Config
"""


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_code_that_comes_with_a_model_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> str:
        raise AssertionError("it asked on the terminal")

    monkeypatch.setattr("builtins.input", never)
    marker = tmp_path / "executed"
    folder = save_tiny(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(CODE.format(marker=str(marker)))
    with pytest.raises(ModelNotAvailableError, match="code of its own, which is never executed"):
        load_model(str(folder))
    with pytest.raises(ModelNotAvailableError, match="not complete"):
        load_vocabulary(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("read", [load_model, load_vocabulary])
def test_pickled_weights_of_a_model_execute_nothing(
    tmp_path: Path, read: Callable[[str], Any]
) -> None:
    marker = tmp_path / "executed"
    folder = save_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Bomb(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported|unpickl"):
        read(str(folder))
    assert not marker.exists()


def test_a_checkpoint_of_the_trainer_executes_nothing(tmp_path: Path) -> None:
    def trainer(steps: int) -> TSLossTrainer:
        model = add_soft_prompt(make_tiny_model(), torch.randn(3, 32))
        arguments = TrainingArguments(
            str(tmp_path / "run"),
            max_steps=steps,
            save_steps=1,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        data = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}] * 8
        return TSLossTrainer(model=model, args=arguments, train_dataset=data)

    marker = tmp_path / "executed"
    trainer(1).train()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        file = tmp_path / "run" / "checkpoint-1" / name
        whole = file.read_bytes()
        torch.save({"state": Bomb(marker)}, file)
        with pytest.raises(pickle.UnpicklingError):
            trainer(2).train(resume_from_checkpoint=True)
        assert not marker.exists(), name
        if name == "rng_state.pth":  # the trap does work
            torch.load(file, weights_only=False)
            assert marker.exists()
        file.write_bytes(whole)
