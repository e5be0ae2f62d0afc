"""Trainings that resume, end as if never stopped, and give back the best model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft_models import CONFIGS, make_peft, trainable
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from trained import arguments, sentences, soft_prompt
from transformers import TrainerCallback

from tsloss_fast import TSLoss
from tsloss_fast.tuning import TSLossTrainer, prompt_clouds


@pytest.mark.parametrize("method", ["prompt", *sorted(set(CONFIGS) - {"prompt", "multitask"})])
def test_every_method_trains_and_resumes_as_if_never_stopped(method, tmp_path):
    def run(folder: Path, resume: bool = False):
        model = make_peft(method)
        trainer = TSLossTrainer(
            model=model,
            args=arguments(
                folder, learning_rate=0.05, max_steps=6, save_strategy="steps", save_steps=3
            ),
            train_dataset=sentences(),
            ts_loss=TSLoss(compactness=1.0),
        )
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resume else None)
        return trainable(model), trainer

    straight, trainer = run(tmp_path)
    start = trainable(make_peft(method))
    moved = [n for n, p in straight.items() if not torch.equal(p, start[n])]
    assert moved, "nothing was trained"
    shutil.rmtree(tmp_path / "checkpoint-6")
    resumed, resumed_trainer = run(tmp_path, resume=True)
    for name, parameter in straight.items():
        assert torch.equal(resumed[name], parameter), name
    assert torch.equal(resumed_trainer.ts_loss.m_ref, trainer.ts_loss.m_ref)


def test_without_the_encoder_s_file_p_tuning_would_resume_from_another_encoder(tmp_path):
    def run(resume):
        model = make_peft("p_mlp")
        args = arguments(
            tmp_path, learning_rate=0.05, max_steps=4, save_strategy="steps", save_steps=2
        )
        trainer = TSLossTrainer(model=model, args=args, train_dataset=sentences())
        trainer.train(resume_from_checkpoint=resume)
        return prompt_clouds(model)

    straight = run(None)
    checkpoint = tmp_path / "checkpoint-2"
    (checkpoint / "prompt_encoder.safetensors").unlink()
    assert not torch.allclose(run(str(checkpoint)), straight, atol=1e-3)


def test_a_checkpoint_without_the_reference_of_compactness_is_told(tmp_path):
    def run(steps, resume=None):
        args = arguments(tmp_path, max_steps=steps, save_strategy="steps", save_steps=1)
        losses = TSLoss(compactness=1.0)
        trainer = TSLossTrainer(
            model=soft_prompt(), args=args, train_dataset=sentences(), ts_loss=losses
        )
        trainer.train(resume_from_checkpoint=resume)

    run(1)
    checkpoint = tmp_path / "checkpoint-1"
    (checkpoint / "tsloss.safetensors").unlink()
    with pytest.warns(UserWarning, match="compactness takes a new reference"):
        run(2, str(checkpoint))


def test_the_best_model_comes_back_with_its_encoder(tmp_path):
    kept: dict[int, torch.Tensor] = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            kept[state.global_step] = prompt_clouds(model).detach().clone()

    trainer = TSLossTrainer(
        model=make_peft("p_mlp"),
        args=arguments(
            tmp_path,
            learning_rate=0.5,
            max_steps=4,
            save_strategy="steps",
            save_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=True,  # so that the last step is not the best
        ),
        train_dataset=sentences(),
        eval_dataset=sentences(),
        callbacks=[Keep()],
        ts_weight=0.1,
    )
    trainer.train()
    best = trainer.state.best_global_step
    assert best < 4
    torch.testing.assert_close(prompt_clouds(trainer.model), kept[best])
