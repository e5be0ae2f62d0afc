"""Runs trained as one are the runs that they would be alone, and the page says what was trained."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import UNEVEN_ITEMS
from tsloss_fast.benchmarks.study import on_gpu, run
from tsloss_fast.benchmarks.study.packed import check_padding, padded_scores, plain_losses
from tsloss_fast.benchmarks.study.protocol_page import compare, page
from tsloss_fast.benchmarks.study.results import read_results
from tsloss_fast.benchmarks.study.tasks import load_task

from tsloss_fast import TSLoss, h0_persistence
from tsloss_fast.tuning import add_soft_prompt, initial_prompt
from tsloss_fast.tuning.answers import answer_logits, encode_items
from tsloss_fast.tuning.tasks import Item

# Distinct tokens, since the loss amplifies the rounding errors that separate coincident ones.
TEXT, ARMS = "x True False not and or", ("ce", "tsloss", "surrogate")
SMALL = replace(on_gpu.MINIATURE, arms=ARMS, epochs=3, test_size=12, init_text=TEXT, lr=0.03)


def numbers(run: dict[str, Any]) -> list[float]:
    end = run["final_accuracy"], run["coefficient_of_variation"]
    return [*run["train_ce"], *run["train_accuracy"], *end]


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_of_the_batch_is_that_of_pefts_model_by_hand(arm: str, tiny: Any) -> None:
    found = on_gpu.train(SMALL, *tiny, chunk=4)[1][2 * ARMS.index(arm) + 1]
    task = load_task("boolean", train_size=10, test_size=12, seed=1)
    items, test = (encode_items(split, tiny[1]) for split in (task.train, task.test))
    model = add_soft_prompt(tiny[0], initial_prompt(*tiny, 6, "text", TEXT)).eval()
    prompt = next(p for p in model.parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW([prompt], lr=0.03, weight_decay=0.0)
    term = {"ce": None, "tsloss": TSLoss(), "surrogate": TSLoss("surrogate")}[arm]
    nats, right = [0.0] * 3, [0.0] * 4
    for step in range(6):
        batch = run.batch_of(items, step + 1, 1, 8)
        answers = answer_logits(model, batch)
        ce = answers.cross_entropy()
        nats[step // 2] += len(batch) * ce.item() / 10  # Each answer is one token.
        right[step // 2] += float((answers.logits.argmax(-1) == answers.targets).sum()) / 10
        optimizer.zero_grad()
        (ce if term is None else ce + 10 * term(prompt)).backward()
        optimizer.step()
    answers, deaths = answer_logits(model, test), h0_persistence(prompt.detach()).deaths
    right[3] = float((answers.logits.argmax(-1) == answers.targets).float().mean())
    right.append(float(deaths.std(correction=0) / deaths.mean()))
    assert numbers(found) == pytest.approx([*nats, *right], rel=1e-4)


def test_padding_changes_no_loss_and_no_gradient(tiny: Any) -> None:
    items = encode_items([Item(*pair) for pair in UNEVEN_ITEMS], tiny[1])
    prompts = torch.stack([initial_prompt(*tiny, 6, seed=seed) for seed in (0, 1)])
    scores = padded_scores(tiny[0], prompts.requires_grad_(), [items[:2], items[2:]])
    plain = [plain_losses(tiny[0], prompts[i // 2], item).sum() for i, item in enumerate(items)]
    both = scores[..., 0].flatten(), torch.stack(plain)
    torch.testing.assert_close(*both)
    torch.testing.assert_close(*(torch.autograd.grad(each.sum(), prompts)[0] for each in both))
    assert scores[..., 2].tolist() == [[1, 1], [3, 2]]
    tiny[0].model.layers[0].self_attn.is_causal = False  # Then the padding is seen.
    with pytest.raises(ValueError, match="cannot be run with padding, with an error of"):
        check_padding(tiny[0], prompts[0].detach(), items)


def test_runs_do_not_mix_even_if_one_diverges(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, together = on_gpu.train(SMALL, *tiny)
    _, (alone,) = on_gpu.train(replace(SMALL, arms=("tsloss",), seeds=(1,)), *tiny)
    assert numbers(alone) == pytest.approx(numbers(together[3]), rel=1e-4)
    assert len({each["train_ce"][-1] for each in together}) == 6
    factors = iter([1.0, 1.0, torch.tensor([1, 1, torch.inf, 1, 1, 1]).view(6, 1, 1), *[1.0] * 9])
    spoilt = lambda *arguments: padded_scores(*arguments) * next(factors)  # noqa: E731
    monkeypatch.setattr(on_gpu, "padded_scores", spoilt)
    facts, broken = on_gpu.train(SMALL, *tiny)
    assert [each["diverged"] for each in broken] == [False, False, True, False, False, False]
    for index in (0, 1, 3, 4, 5):
        assert numbers(broken[index]) == pytest.approx(numbers(together[index]), rel=1e-4)
    assert [e.difference.pairs for e in compare(facts, broken) if e.arm == "tsloss"][2:] == [1] * 3


def test_fewer_epochs_are_trained_if_the_clock_is_too_slow(tiny: Any) -> None:
    # An epoch takes 10 seconds, and the test items 7.2: six epochs fit, and seven without these.
    clock = itertools.count(0, 10).__next__
    facts, runs = on_gpu.train(replace(SMALL, epochs=30), *tiny, 75.0, clock=clock)
    assert {facts["epochs"], *(len(each["train_ce"]) for each in runs)} == {6}
    facts = defaultdict(lambda: defaultdict(str), facts)
    assert "**Only 6 of 30 epochs were trained**" in page(facts, runs)


def test_the_command_writes_two_files_and_refuses_a_device_that_is_not_there(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--miniature", "--model", str(tiny_folder), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        on_gpu.main([*words, "--device", "cuda:7"])
    assert "--device: device must be one of this machine, got 'cuda:7'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert on_gpu.main([*words, "--device", "cpu"]) == 0
    assert {file.name for file in tmp_path.glob("out/*")} == {"protocol.jsonl", "protocol.md"}
    facts, *runs = read_results(tmp_path / "out")
    assert (tmp_path / "out/protocol.md").read_text(encoding="utf-8") == page(facts, runs)
    assert "All 2 epochs were trained" in page(facts, runs)
