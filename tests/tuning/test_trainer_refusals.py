"""What a trainer refuses, and the words for it."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from peft_models import make_peft
from tiny_llama import NEEDS, make_tiny_model

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import peft
from trained import arguments, sentences, soft_prompt
from transformers import Seq2SeqTrainer, Trainer

from tsloss_fast.tuning import TSLossMixin, TSLossTrainer


def test_prefix_tuning_with_gradient_checkpointing_is_refused_early(tmp_path):
    args = arguments(tmp_path, gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"PREFIX_TUNING and gradient checkpointing"):
        TSLossTrainer(model=make_peft("prefix"), args=args, train_dataset=sentences())
    # The plain trainer fails too, in the middle of the first step.
    with pytest.raises(RuntimeError, match="size of tensor"):
        Trainer(model=make_peft("prefix"), args=args, train_dataset=sentences()).train()
    TSLossTrainer(model=make_peft("prompt"), args=args, train_dataset=sentences()).train()


@pytest.mark.parametrize("method", ["prompt", "p_mlp", "multitask", "context"])
def test_label_smoothing_with_tokens_before_the_text_is_refused_early(method, tmp_path):
    args = arguments(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0\.1 does not work"):
        TSLossTrainer(model=make_peft(method), args=args, train_dataset=sentences())


def test_label_smoothing_fails_in_the_plain_trainer_and_works_with_a_prefix(tmp_path):
    args = arguments(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(RuntimeError, match="size of tensor"):
        Trainer(model=make_peft("prompt"), args=args, train_dataset=sentences()).train()
    TSLossTrainer(model=make_peft("prefix"), args=args, train_dataset=sentences()).train()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ts_loss": torch.sum}, TypeError, "must be a TSLoss or another nn.Module"),
        ({"ts_loss": torch.nn.Linear(2, 1)}, ValueError, "would train: weight, bias; freeze them"),
        ({"ts_weight": -1.0}, ValueError, "got -1.0"),
        ({"ts_weight": float("inf")}, ValueError, "got inf"),
        ({"ts_weight": "10"}, TypeError, "got str"),
        ({"ts_clouds": torch.zeros(3, 2)}, TypeError, "ts_clouds must be a function"),
    ],
)
def test_wrong_arguments_are_named(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        TSLossTrainer(model=soft_prompt(), args=arguments(tmp_path), **options)


def test_a_trainer_whose_loss_comes_before_the_mixins_is_refused_when_the_class_is_made():
    own = type("Own", (Trainer,), {"compute_loss": Trainer.compute_loss})
    for bases in ((Seq2SeqTrainer, TSLossMixin), (own, TSLossMixin), (own, TSLossTrainer)):
        name = bases[0].__name__
        with pytest.raises(TypeError, match=rf"class T\(TSLossMixin, {name}\)"):
            type("T", bases, {})
    # This one leaves the loss alone, and TSLossTrainer is a Trainer itself.
    logging = type("Logging", (Trainer,), {"log": Trainer.log})
    assert type("T", (logging, TSLossTrainer), {}).compute_loss is TSLossMixin.compute_loss


@pytest.mark.parametrize("mixin", [TSLossMixin, TSLossTrainer])
def test_the_mixin_before_a_trainer_is_accepted(mixin):
    right = type("T", (mixin, Seq2SeqTrainer), {})
    assert right.compute_loss is TSLossMixin.compute_loss
    type("Derived", (right,), {})
    type("Widened", (mixin,), {})


def test_a_model_without_virtual_tokens_is_refused_at_construction(tmp_path):
    with pytest.raises(ValueError, match="carries no soft prompt"):
        TSLossTrainer(model=make_tiny_model(), args=arguments(tmp_path))
    lora = peft.get_peft_model(make_tiny_model(), peft.LoraConfig(task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="LORA, which has no virtual tokens"):
        TSLossTrainer(model=lora, args=arguments(tmp_path))


@pytest.mark.parametrize("missing", ["transformers", "peft"])
def test_without_the_extra_one_error_names_the_command(missing, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tsloss_fast.tuning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError) as error:
        importlib.import_module("tsloss_fast.tuning")
    assert 'pip install "tsloss-fast[tuning]"' in str(error.value)
    assert missing in str(error.value)


def test_every_exported_name_is_there_and_tune_is_the_function():
    import tsloss_fast.tuning as tuning

    importlib.import_module("tsloss_fast.tuning.tune")
    for name in tuning.__all__:
        assert callable(getattr(tuning, name)), name
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = tuning.absent
