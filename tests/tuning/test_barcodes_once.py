"""A prompt has one barcode a step, which loss, metrics and record share: to the same numbers."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_runs import tune_here
from tiny_llama import NEEDS, make_tiny_model

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("pyarrow", reason=NEEDS)

import pyarrow.compute as pc
from peft import get_peft_model
from peft_models import dropout_encoder
from trained import arguments, sentences, soft_prompt
from transformers import TrainerCallback

from tsloss_fast import TSLoss, h0_persistence
from tsloss_fast.analysis import read_record
from tsloss_fast.tuning import PromptTopologyCallback, TSLossTrainer, prompt_clouds
from tsloss_fast.tuning.clouds import LastBarcode

STEPS = 6
LOSSES = ("tsloss", "ce", "total", "surrogate", "l2")


def differences(counts: list[int]) -> list[int]:
    return [after - before for before, after in itertools.pairwise(counts)]


def trainer(folder: Path, model: Any = None, accumulation: int = 1, **options: Any) -> Any:
    settings = {
        "max_steps": STEPS,
        "learning_rate": 0.1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": accumulation,
    }
    return TSLossTrainer(
        model=soft_prompt() if model is None else model,
        args=arguments(folder, **settings),
        train_dataset=sentences(),
        **options,
    )


def rows_of_h0(folder: Path) -> Any:
    """The record without its times, and without H1, whose rows a thread writes when they are
    found."""
    table = read_record(folder).table
    return table.filter(pc.field("dimension") == 0).drop(["time"])


class AtEachStep(TrainerCallback):
    """Keeps how many barcodes had been computed when the training began and after each step."""

    def __init__(self, barcodes: list[None]) -> None:
        self.barcodes = barcodes
        self.counts: list[int] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.counts.append(len(self.barcodes))

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.counts.append(len(self.barcodes))

    def of_each_step(self) -> list[int]:
        return differences(self.counts)


@contextlib.contextmanager
def nothing_shared() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastBarcode, "of", lambda self, points, lengths=None: None)
        yield


def encoder_with_dropout() -> Any:
    config = dropout_encoder()
    torch.manual_seed(3)
    return get_peft_model(make_tiny_model(), config)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_of_a_run_computes_one_barcode(
    tmp_path: Path, barcodes: list[None], loss: str
) -> None:
    counts: list[int] = []

    def report(record: Any) -> None:
        # The prompt after a step is recorded before the line of the step is written.
        if record["kind"] == "step" or record.get("step") == 0:
            counts.append(len(barcodes))

    changes = {"compactness": 1.0 if loss == "tsloss" else 0.0, "steps": STEPS, "eval_every": 2}
    tune_here(str(tmp_path / "run"), report, loss=loss, **changes)
    assert differences(counts) == [1] * STEPS
    assert len(barcodes) == counts[-1]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_writes_the_numbers_that_it_writes_without_sharing(tmp_path: Path, loss: str) -> None:
    lines, tables, prompts = [], [], []
    for shared in (True, False):
        out = tmp_path / str(shared)
        with contextlib.nullcontext() if shared else nothing_shared():
            compactness = 1.0 if loss == "tsloss" else 0.0
            result = tune_here(str(out), loss=loss, compactness=compactness, steps=7)
        records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        lines.append(
            [{k: v for k, v in record.items() if "seconds" not in k} for record in records]
        )
        tables.append(rows_of_h0(out))
        prompts.append(result.prompt)
    assert lines[0] == lines[1]
    assert tables[0].equals(tables[1])
    assert torch.equal(*prompts)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_trainer_and_its_callback_compute_one_barcode_a_step(
    tmp_path: Path, barcodes: list[None], accumulation: int
) -> None:
    made = trainer(tmp_path, accumulation=accumulation, callbacks=[PromptTopologyCallback()])
    counter = AtEachStep(barcodes)
    made.add_callback(counter)
    made.train()
    assert counter.of_each_step() == [1] * STEPS
    assert read_record(tmp_path).steps().tolist() == list(range(STEPS + 1))


@pytest.mark.parametrize("every", [None, 4])
def test_accumulated_batches_share_a_barcode_at_steps_without_a_record(
    tmp_path: Path, barcodes: list[None], every: int | None
) -> None:
    made = trainer(tmp_path, accumulation=3)
    if every is not None:
        made.add_callback(PromptTopologyCallback(every=every))
    counter = AtEachStep(barcodes)
    made.add_callback(counter)
    made.train()
    # The prompt after step 4 is recorded then, and its loss is that of step 5; the last prompt is
    # recorded as well.
    expected = [1] * STEPS if every is None else [0, 1, 1, 2, 0, 2]
    assert counter.of_each_step() == expected


def test_clouds_without_a_batch_are_shared_with_their_record(
    tmp_path: Path, barcodes: list[None]
) -> None:
    def rows(model: Any) -> torch.Tensor:
        return prompt_clouds(model)[0, :4]

    made = trainer(tmp_path, ts_clouds=rows)
    made.add_callback(PromptTopologyCallback(clouds=rows))
    counter = AtEachStep(barcodes)
    made.add_callback(counter)
    made.train()
    assert counter.of_each_step() == [1] * STEPS


@pytest.mark.parametrize(
    ("model", "accumulation"), [(soft_prompt, 1), (soft_prompt, 3), (encoder_with_dropout, 1)]
)
def test_a_training_has_the_numbers_that_it_has_without_sharing(
    tmp_path: Path, model: Any, accumulation: int
) -> None:
    histories, tables, ends = [], [], []
    for shared in (True, False):
        torch.manual_seed(0)
        made = trainer(tmp_path / str(shared), model(), accumulation)
        made.add_callback(PromptTopologyCallback())
        with contextlib.nullcontext() if shared else nothing_shared():
            made.train()
        history = made.state.log_history
        histories.append([entry for entry in history if "loss" in entry])
        tables.append(rows_of_h0(tmp_path / str(shared)))
        ends.append(prompt_clouds(made.model.eval()).detach())
    assert len(histories[0]) == STEPS
    assert histories[0] == histories[1]
    assert tables[0].equals(tables[1])
    assert torch.equal(*ends)


def test_a_prompt_that_is_changed_through_its_data_has_another_barcode(tmp_path: Path) -> None:
    losses: list[float] = []

    class Change(TrainerCallback):
        def on_step_begin(self, *args: Any, model: Any = None, **kwargs: Any) -> None:
            # After the record of this prompt, and before its loss: neither its address nor its
            # version tells.
            parameter = next(p for p in model.parameters() if p.requires_grad)
            version = parameter._version
            parameter.data[0] += 1.0
            assert parameter._version == version
            losses.append(TSLoss()(prompt_clouds(model)).item())

    made = trainer(tmp_path)
    made.add_callback(PromptTopologyCallback())
    made.add_callback(Change())
    made.train()
    history = [entry for entry in made.state.log_history if "loss" in entry]
    assert [entry["tsloss/total"] for entry in history] == pytest.approx(losses, rel=1e-6)


def test_a_barcode_is_that_of_the_points_as_they_are_now(barcodes: list[None]) -> None:
    last = LastBarcode()
    points = torch.nn.Parameter(torch.randn(2, 9, 4))

    def check(x: torch.Tensor, computed: int) -> None:
        before = len(barcodes)
        found = last.of(x)
        assert len(barcodes) == before + computed
        expected = h0_persistence(x.detach())
        assert found is not None
        assert not found.deaths.requires_grad
        assert torch.equal(found.deaths, expected.deaths)
        assert torch.equal(found.edges, expected.edges)

    check(points, 1)
    check(points, 0)
    check(points.detach().clone(), 0)
    check(points.detach().transpose(0, 1).contiguous().transpose(0, 1), 0)
    points.data[1, 3, 2] += 0.5
    check(points, 1)
    check(points.double(), 1)
    check(points[:1], 1)
    check(points[0], 0)
    check(points[1], 1)
    check(points[0, :, :0], 1)


def test_the_same_points_in_clouds_of_other_sizes_have_another_barcode() -> None:
    last = LastBarcode()
    points = torch.randn(2, 9, 4)
    for lengths in (None, [9, 5], [4, 9], [4, 9], None):
        found = last.of(points, lengths)
        expected = h0_persistence(points, lengths=lengths)
        assert found is not None
        assert torch.equal(found.deaths, expected.deaths)
        assert torch.equal(found.edges, expected.edges)


@pytest.mark.parametrize(
    "points",
    [
        torch.tensor([[0.0], [math.nan]]),
        torch.tensor([[0.0], [math.inf]]),
        torch.tensor([[-3e38], [3e38]]),
        torch.zeros(3, 2, dtype=torch.bfloat16),
        torch.zeros(3, 2, device="meta"),
        torch.zeros(2, 2, 3, 2),
    ],
    ids=["nan", "infinity", "overflow", "bfloat16", "another device", "more dimensions"],
)
def test_other_points_have_no_shared_barcode(points: torch.Tensor) -> None:
    last = LastBarcode()
    kept = torch.eye(3)
    assert last.of(kept) is not None
    assert last.of(points) is None
    assert last.of(points) is None


def test_points_that_are_not_finite_are_recorded_with_a_warning_and_refused_by_the_loss(
    tmp_path: Path,
) -> None:
    class Overflow(TrainerCallback):
        def on_optimizer_step(
            self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
        ) -> None:
            if state.global_step == 2:
                next(p for p in model.parameters() if p.requires_grad).data[0] = math.inf

    made = trainer(tmp_path)
    callback = PromptTopologyCallback(h1_every=None)
    made.add_callback(callback)
    made.add_callback(Overflow())
    with (
        pytest.warns(UserWarning, match="the points are not finite.*from step 3 on"),
        pytest.raises(ValueError, match="points: "),
    ):
        made.train()
    assert callback.tracker is not None
    callback.tracker.close()
    record = read_record(tmp_path)
    assert record.steps().tolist() == [0, 1, 2, 3]
    assert record.row(3)["deaths"] is None


def test_a_loss_and_a_record_of_other_metrics_share_nothing(tmp_path: Path) -> None:
    made = trainer(tmp_path, ts_loss=TSLoss(metric="cosine"))
    made.add_callback(PromptTopologyCallback(metric="manhattan"))
    start = prompt_clouds(made.model).detach().clone()
    made.train()
    end = prompt_clouds(made.model)[0].detach()
    found = torch.from_numpy(read_record(tmp_path).row(STEPS)["deaths"])
    assert torch.equal(found, h0_persistence(end, "manhattan").deaths.double())
    expected = TSLoss(metric="cosine")(start).item()
    assert made.state.log_history[0]["tsloss/total"] == pytest.approx(expected, rel=1e-6)


def test_the_surrogate_has_no_barcode_computed_for_it(tmp_path: Path, barcodes: list[None]) -> None:
    made = trainer(tmp_path, ts_loss=TSLoss("surrogate"))
    made.train()
    assert not barcodes


def test_a_loss_with_a_forward_of_its_own_is_called_as_before(tmp_path: Path) -> None:
    class Doubled(TSLoss):
        def forward(self, points: Any, lengths: Any = None, return_terms: bool = False) -> Any:
            total, terms = super().forward(points, lengths, True)
            return (2 * total, terms) if return_terms else 2 * total

    made = trainer(tmp_path, ts_loss=Doubled())
    expected = 2 * TSLoss()(prompt_clouds(made.model)).item()
    made.train()
    assert made.state.log_history[0]["tsloss/total"] == pytest.approx(expected, rel=1e-6)


def test_a_hook_that_gives_the_loss_other_points_has_its_way(tmp_path: Path) -> None:
    loss = TSLoss()
    loss.register_forward_pre_hook(lambda module, inputs: (inputs[0] ** 3,))
    made = trainer(tmp_path, ts_loss=loss)
    expected = TSLoss()(prompt_clouds(made.model) ** 3).item()
    made.train()
    assert made.state.log_history[0]["tsloss/total"] == pytest.approx(expected, rel=1e-5)
