"""The losses, weights and clouds that a trainer takes, and the values that it logs of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_models import make_peft, trainable
from tiny_llama import NEEDS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from trained import WEIGHT, Gradients, arguments, initial, sentences, soft_prompt
from transformers import Trainer

from tsloss_fast import TSLoss
from tsloss_fast.analysis import read_record
from tsloss_fast.barcode import total_persistence
from tsloss_fast.functional import h0_persistence
from tsloss_fast.tuning import PromptTopologyCallback, TSLossTrainer, prompt_clouds
from tsloss_fast.tuning import trainer as trainer_module


def train(folder: Path, model: Any = None, resume: Any = None, **options: Any) -> Any:
    ours = {n: options.pop(n) for n in ("callbacks", "compute_loss_func") if n in options}
    ours |= {n: options.pop(n) for n in list(options) if n.startswith("ts_")}
    made = TSLossTrainer(
        model=soft_prompt() if model is None else model,
        args=arguments(folder, **({"learning_rate": 0.1} | options)),
        train_dataset=sentences(),
        **ours,
    )
    made.train(resume_from_checkpoint=resume)
    return made


def logs(made: Any) -> list[dict[str, float]]:
    return [entry for entry in made.state.log_history if "loss" in entry]


def mean_of_logits(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
    return outputs.logits.square().mean()


class Mean(nn.Module):
    """A penalty that knows nothing of terms."""

    def forward(self, points: Tensor) -> Tensor:
        return points.square().mean()


class Shifted(nn.Module):
    """A loss with a state: the mean of all the points that it has seen, which it takes away."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, points: Tensor, return_terms: bool = False) -> Any:
        self.seen += points.detach().mean()
        size, mean = points.square().mean(), (points.mean() - self.seen) ** 2
        return (size + mean, {"size": size, "mean": mean}) if return_terms else size + mean


# The task's loss.


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    "way",
    [
        {},
        {"compute_loss_func": mean_of_logits},
        {"label_smoothing_factor": 0.1},
        {"ts_weight": lambda step: float(step)},
    ],
    ids=["items", "loss_func", "smoothing", "weight"],
)
def test_the_loss_is_that_of_the_task_plus_the_weighted_term(
    tmp_path: Path, way: dict[str, Any], accumulation: int
) -> None:
    # A prefix, which label smoothing allows. Five batches of 3 or 1 rows: the last group is short.
    settings = {
        "max_steps": 4,
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": 3,
    }
    made = train(tmp_path, make_peft("prefix"), **settings, **way)
    assert len(logs(made)) == 4
    for entry in logs(made):
        weight = entry.get("tsloss/weight", WEIGHT)
        expected = entry["tsloss/task_loss"] + weight * entry["tsloss/total"]
        assert entry["loss"] == pytest.approx(expected, rel=2e-6)
        assert entry["tsloss/total"] > 1e-3


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_task_s_loss_is_the_one_of_the_plain_trainer(tmp_path: Path, accumulation: int) -> None:
    settings = {"learning_rate": 0.0, "gradient_accumulation_steps": accumulation, "max_steps": 4}
    made = train(tmp_path, **settings, logging_steps=2)
    args = arguments(tmp_path, **settings, logging_steps=2)
    plain = Trainer(model=soft_prompt(), args=args, train_dataset=sentences())
    plain.train()
    found = [entry["tsloss/task_loss"] for entry in logs(made)]
    assert found == pytest.approx([entry["loss"] for entry in logs(plain)], rel=2e-6)
    assert len(found) == 2


def test_nothing_waits_for_the_device_before_the_log(tmp_path: Path) -> None:
    class Waits(TorchDispatchMode):
        """Counts what copies a number from the device."""

        found = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            self.found += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    def waits(cls: Any, **options: Any) -> int:
        args = arguments(tmp_path)
        made = cls(model=soft_prompt(), args=args, train_dataset=sentences(), **options)
        batch = {name: value[None] for name, value in sentences(1)[0].items()}
        with Waits() as mode:
            made.compute_loss(made.model.train(), batch).backward()
        return mode.found

    plain = waits(Trainer)
    assert waits(TSLossTrainer, ts_loss=Mean(), ts_weight=lambda step: 1.0) == plain
    assert waits(TSLossTrainer, ts_clouds=lambda m: [*prompt_clouds(m)], ts_loss=Mean()) == plain


# The weight.


def test_a_weight_is_asked_once_a_step_and_logged(tmp_path: Path) -> None:
    asked: list[int] = []

    def weight(step: int) -> float:
        assert type(step) is int
        asked.append(step)
        return [0.0, 3.0, 5.0, 0.0][step]

    kept = Gradients()
    settings = {"learning_rate": 0.0, "gradient_accumulation_steps": 4, "max_steps": 4}
    made = train(tmp_path, ts_weight=weight, callbacks=[kept], **settings)
    assert asked == [0, 1, 2, 3]
    assert [entry["tsloss/weight"] for entry in logs(made)] == [0.0, 3.0, 5.0, 0.0]
    assert all(entry["tsloss/total"] > 0 for entry in logs(made))
    points = initial().requires_grad_()
    TSLoss()(points).backward()
    plain = Gradients()
    train(tmp_path, ts_weight=0.0, callbacks=[plain], **settings)
    for with_term, without, factor in zip(kept.steps, plain.steps, (0, 3, 5, 0), strict=True):
        expected = factor * points.grad
        torch.testing.assert_close(with_term - without, expected, rtol=1e-4, atol=1e-5)


def test_a_resumed_training_asks_for_the_weight_of_its_step(tmp_path: Path) -> None:
    asked: list[int] = []

    def weight(step: int) -> float:
        asked.append(step)
        return float(step)

    settings = {"save_strategy": "steps", "save_steps": 2, "ts_weight": weight}
    straight = train(tmp_path, max_steps=4, **settings)
    resumed = train(tmp_path, resume=str(tmp_path / "checkpoint-2"), max_steps=4, **settings)
    assert asked == [0, 1, 2, 3, 2, 3]
    assert torch.equal(prompt_clouds(straight.model), prompt_clouds(resumed.model))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (-1.0, ValueError, r"ts_weight\(2\) must be 0 or a positive finite number, got -1.0"),
        (math.nan, ValueError, r"ts_weight\(2\) must be 0 or .*, got nan"),
        (None, TypeError, r"ts_weight\(2\) must be a number, got NoneType"),
        (True, TypeError, r"ts_weight\(2\) must be a number, got bool"),
    ],
)
def test_a_wrong_weight_names_its_step(
    given: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(tmp_path, ts_weight=lambda step: given if step == 2 else 1.0, max_steps=3)


# Other losses.


def test_a_loss_without_terms_is_logged_as_its_total_and_trains(tmp_path: Path) -> None:
    kept, plain = Gradients(), Gradients()
    made = train(tmp_path, ts_loss=Mean(), callbacks=[kept], learning_rate=0.0)
    train(tmp_path, ts_weight=0, callbacks=[plain], learning_rate=0.0)
    names = [name for name in logs(made)[0] if name.startswith("tsloss/")]
    assert names == ["tsloss/task_loss", "tsloss/total"]
    assert logs(made)[0]["tsloss/total"] == pytest.approx(float(initial().square().mean()))
    expected = WEIGHT * 2 * initial() / initial().numel()
    torch.testing.assert_close(kept.steps[0] - plain.steps[0], expected, rtol=1e-3, atol=1e-5)


def test_the_terms_and_the_state_of_a_loss_of_one_s_own_are_kept(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    loss, again = Shifted(), Shifted()
    straight = train(tmp_path, ts_loss=loss, **settings)
    entry = logs(straight)[-1]
    assert entry["tsloss/total"] == pytest.approx(entry["tsloss/size"] + entry["tsloss/mean"])
    resumed = train(tmp_path, ts_loss=again, resume=str(tmp_path / "checkpoint-2"), **settings)
    assert torch.equal(again.seen, loss.seen)
    assert float(loss.seen) != 0
    assert torch.equal(prompt_clouds(straight.model), prompt_clouds(resumed.model))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda points: points.square().mean((1, 2)), r"Bad gave \(1,\) for points \(1, 5, 32\)"),
        (lambda points: 3.0, "Bad gave float for points .*expected a scalar tensor"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused(found: Any, message: str, tmp_path: Path) -> None:
    bad = type("Bad", (nn.Module,), {"forward": lambda self, points: found(points)})
    with pytest.raises(TypeError, match=message):
        train(tmp_path, ts_loss=bad())


def test_a_loss_with_frozen_parameters_is_taken(tmp_path: Path) -> None:
    loss = nn.Sequential(nn.Linear(32, 1), Mean()).requires_grad_(False)
    made = train(tmp_path, ts_loss=loss, max_steps=1)
    assert logs(made)[0]["tsloss/total"] == pytest.approx(float(loss(initial()[None])))


# Clouds of several widths.


def several(model: Any) -> list[Tensor]:
    """Three clouds of 5 points, 4 of whose coordinates are taken, and one of 3 points."""
    (points,) = prompt_clouds(model)
    return [torch.stack([points[:, i : i + 4] for i in (0, 4, 8)]), points[:3]]


@pytest.mark.parametrize(
    "loss", [TSLoss(), TSLoss(compactness=1.0, reference=2.0), TSLoss("total"), Mean(), Shifted()]
)
def test_the_loss_of_several_clouds_is_their_mean_and_so_is_its_gradient(
    tmp_path: Path, loss: Any
) -> None:
    kept, plain = Gradients(), Gradients()
    settings = {"learning_rate": 0.0, "max_steps": 1}
    made = train(tmp_path, ts_loss=loss, ts_clouds=several, callbacks=[kept], **settings)
    train(tmp_path, ts_weight=0, callbacks=[plain], **settings)
    if isinstance(loss, Shifted):  # the state that it had for the two parts
        loss.seen.zero_()
    points = initial().requires_grad_()
    three, one = several(points)
    if isinstance(loss, Shifted):
        total = (3 * loss(three) + loss(one[None])) / 4
    else:
        total = sum(loss(cloud[None]) for cloud in (*three, one)) / 4
    assert logs(made)[0]["tsloss/total"] == pytest.approx(float(total.detach()), rel=1e-5)
    (WEIGHT * total).backward()
    difference = kept.steps[0] - plain.steps[0]
    torch.testing.assert_close(difference, points.grad, rtol=1e-3, atol=1e-5)
    assert points.grad.abs().max() > 1e-3


def test_a_reference_is_measured_from_all_clouds_of_a_list(tmp_path: Path) -> None:
    loss = TSLoss(compactness=1.0)
    made = train(tmp_path, ts_loss=loss, ts_clouds=several, max_steps=1)
    deaths = [
        h0_persistence(cloud).deaths.mean()
        for part in several(initial())
        for cloud in (part if part.dim() == 3 else part[None])
    ]
    assert float(loss.m_ref) == pytest.approx(float(torch.stack(deaths).mean()), rel=1e-6)
    assert logs(made)[0]["tsloss/compactness"] == pytest.approx(1.0)


def test_several_clouds_are_recorded_as_they_are_and_share_their_barcode(
    tmp_path: Path, barcodes: list[None]
) -> None:
    names = ["a", "b", "c", "d"]
    callback = PromptTopologyCallback(clouds=several, names=names, h1_every=None)
    counts: list[int] = []

    class Count(Gradients):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            counts.append(len(barcodes))

    made = train(tmp_path, ts_clouds=several, callbacks=[callback, Count()], max_steps=3)
    assert [after - counts[0] for after in counts] == [0, 1, 2]
    record = read_record(tmp_path)
    assert [record.cloud_name(cloud) for cloud in record.clouds] == names
    three, one = several(made.model)
    for cloud, points in enumerate((*three, one)):
        row = record.row(3, cloud)
        assert row["n_points"] == len(points)
        deaths = torch.from_numpy(row["deaths"])
        torch.testing.assert_close(
            deaths, h0_persistence(points.detach()).deaths.double(), rtol=1e-6, atol=0
        )
        total = float(total_persistence(deaths))
        assert row["total_persistence"] == pytest.approx(total)


@pytest.mark.parametrize(
    ("clouds", "error", "message"),
    [
        (lambda model: [], ValueError, "at least one cloud, got an empty list"),
        (lambda model: None, TypeError, "must be a tensor of floating numbers, got NoneType"),
        (lambda model: [prompt_clouds(model), 3], TypeError, "floating numbers, got int"),
    ],
)
def test_what_is_no_cloud_is_named(
    clouds: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(tmp_path, ts_clouds=clouds)


# The time.


@pytest.mark.parametrize("which", ["the prompt, which the task uses too", "a batch of its own"])
def test_the_seconds_of_the_term_are_those_of_its_forward_and_its_backward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    clock = [0.0]

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, points: Tensor) -> Tensor:
            clock[0] += 1.0
            return points * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            clock[0] += 10.0
            return gradient * 2

    class Loss(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return Slow.apply(points).square().mean()

    model = soft_prompt()
    layer = model.get_base_model().model.layers[0]
    passes: list[None] = []

    def of_the_task(*args: Any) -> None:
        passes.append(None)
        clock[0] += 1000.0

    layer.register_forward_hook(of_the_task)
    layer.register_full_backward_hook(of_the_task)
    monkeypatch.setattr(trainer_module, "perf_counter", lambda: clock[0])
    (parameter,) = trainable(model).values()
    if which == "a batch of its own":
        parameter = nn.Parameter(initial()[None])
    settings = {"max_steps": 2, "gradient_accumulation_steps": 2, "ts_loss": Loss()}
    made = train(tmp_path, model, ts_clouds=lambda model: parameter, **settings)
    assert made.ts_seconds == 4 * 11.0
    assert len(passes) == 8
    assert train(tmp_path, ts_weight=0, **settings).ts_seconds == 4 * 1.0


class Named(nn.Module):
    """A loss whose term has a name of the caller's choice."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, points: Tensor, return_terms: bool = False) -> Any:
        return points.square().mean(), {self.name: 1.0}


@pytest.mark.parametrize("name", ["total", "task_loss", "weight"])
def test_a_term_with_a_name_of_the_log_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"Named calls a term {name}, which is the trainer's own"):
        train(tmp_path, ts_loss=Named(name))


def test_a_term_may_be_a_plain_number(tmp_path: Path) -> None:
    assert logs(train(tmp_path, ts_loss=Named("one")))[0]["tsloss/one"] == 1.0


def test_the_record_lies_in_an_output_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "run.arrows"
    folder.mkdir()
    train(folder, callbacks=[PromptTopologyCallback()])
    assert read_record(folder / "topology.arrows").steps().tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["run.arrows"]
