"""The term in TRL's trainer and in a plain loop."""

from __future__ import annotations

import pytest
import torch
from peft_models import trainable
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from trained import WEIGHT, Gradients, arguments, expected_gradient, initial, sentences, soft_prompt

from tsloss_fast import TSLoss
from tsloss_fast.tuning import TSLossMixin, prompt_clouds


@pytest.mark.parametrize("accumulation", [1, 2])
def test_trl_s_trainer_takes_the_term_too(accumulation, tmp_path, tiny_tokenizer):
    trl = pytest.importorskip("trl", reason="trl is not installed (extra test)")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (comes with trl)")

    class Ours(TSLossMixin, trl.SFTTrainer):
        pass

    rows = datasets.Dataset.from_dict({"input_ids": [r["input_ids"] for r in sentences()]})

    def run(weight: float):
        kept = Gradients()
        trainer = Ours(
            model=soft_prompt(),
            args=trl.SFTConfig(
                **{
                    **arguments(tmp_path).to_dict(),
                    "gradient_accumulation_steps": accumulation,
                    "eval_strategy": "steps",
                    "eval_steps": 1,
                    "max_steps": 1,
                }
            ),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=tiny_tokenizer,
            callbacks=[kept],
            ts_weight=weight,
        )
        trainer.train()
        return kept.steps[0], trainer.state.log_history

    with_term, history = run(WEIGHT)
    without, plain_history = run(0.0)
    torch.testing.assert_close(with_term - without, expected_gradient(), rtol=1e-4, atol=1e-5)
    assert history[0]["tsloss/total"] == pytest.approx(float(TSLoss()(initial())))
    assert "mean_token_accuracy" in history[0]
    assert history[1]["eval_loss"] == plain_history[1]["eval_loss"]
    assert not [key for key in history[1] if "tsloss" in key]


def test_the_term_is_simply_added_in_a_plain_loop():
    accelerate = pytest.importorskip("accelerate", reason=NEEDS)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = soft_prompt()
    (parameter,) = trainable(model).values()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD([parameter], lr=1.0))
    losses = TSLoss()
    for _ in range(2):
        with accelerator.accumulate(model):
            accelerator.backward(WEIGHT * losses(prompt_clouds(model)))
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(initial() - parameter.detach(), expected_gradient())
