"""A Trainer of Lightning has the record and the values in its log that one of transformers has."""

from __future__ import annotations

import csv
import importlib
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("pyarrow", reason=NEEDS)
pytest.importorskip("lightning", reason="lightning is not installed (extra test)")

from trained import WEIGHT, sentences, soft_prompt

from tsloss_fast import TSLoss
from tsloss_fast.analysis import read_record
from tsloss_fast.tuning import LightningTopologyCallback, hidden_states, prompt_clouds

STEPS = 6
PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


def module(package: str = PACKAGES[0]) -> Any:
    class Tuned(importlib.import_module(package).LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = soft_prompt()
            self.ts_loss = TSLoss()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.model(**batch).loss + WEIGHT * self.ts_loss(prompt_clouds(self.model))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            trained = [p for p in self.parameters() if p.requires_grad]
            return torch.optim.Adam(trained, lr=0.1)

    return Tuned()


def fit(
    folder: Path,
    callback: Any,
    made: Any = None,
    package: str = PACKAGES[0],
    resume: Path | None = None,
    rows: int = 4,
    **changes: Any,
) -> Any:
    pl = importlib.import_module(package)
    logger = importlib.import_module(f"{package}.loggers").CSVLogger(folder / "log")
    made = module(package) if made is None else made
    settings = {
        "accelerator": "cpu",
        "max_steps": STEPS,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
        "logger": logger,
        "callbacks": [callback],
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(num_workers|eval mode|LeafSpec)")
        trainer = pl.Trainer(**settings | changes)
        loader = torch.utils.data.DataLoader(sentences(), batch_size=rows)
        trainer.fit(made, loader, ckpt_path=resume)
    return trainer


def logged(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.rglob("metrics.csv")
    return list(csv.DictReader(file.read_text().splitlines()))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_step_is_recorded_and_the_chosen_values_are_logged(
    tmp_path: Path, package: str
) -> None:
    pytest.importorskip(package, reason="needs the extra test")
    made = module(package)
    start = prompt_clouds(made.model)[0].detach().clone()
    callback = LightningTopologyCallback(log=["mean_lifetime", "displacement_first"])
    fit(tmp_path, callback, made, package)
    record = read_record(tmp_path)
    assert record.steps().tolist() == list(range(STEPS + 1))
    assert record.metadata["clouds"] == ["prompt"]
    assert torch.equal(torch.from_numpy(record.row(0)["points"]).float(), start)
    end = prompt_clouds(made.model)[0].detach()
    assert torch.equal(torch.from_numpy(record.row(STEPS)["points"]).float(), end)
    rows = logged(tmp_path)
    names = {name for name in rows[0] if name.startswith("topology/")}
    assert names == {"topology/mean_lifetime", "topology/displacement_first"}
    found = [float(row["topology/mean_lifetime"]) for row in rows]
    assert found == pytest.approx(record.series("mean_lifetime")[1:].tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "recorded"),
    [
        ({"accumulate_grad_batches": 2, "max_steps": 4}, [0, 3, 4]),
        ({"max_steps": -1, "max_epochs": 2}, [0, 3, 6, 8]),
        ({"max_steps": -1, "max_epochs": 1, "limit_train_batches": 3}, [0, 3]),
    ],
)
def test_the_record_is_of_optimizer_steps_and_ends_with_the_last(
    tmp_path: Path, changes: dict[str, int], recorded: list[int]
) -> None:
    fit(tmp_path, LightningTopologyCallback(every=3, points_every=100), **changes)
    record = read_record(tmp_path)
    assert record.steps().tolist() == recorded
    assert record.row(recorded[-1])["points"] is not None
    assert len(logged(tmp_path)) >= 3
    assert all(row["topology/redundancy"] for row in logged(tmp_path))


def test_the_training_is_not_changed_by_being_watched(tmp_path: Path) -> None:
    ends = []
    for callback in (LightningTopologyCallback(), importlib.import_module(PACKAGES[0]).Callback()):
        made = module()
        fit(tmp_path / str(len(ends)), callback, made)
        ends.append(prompt_clouds(made.model).detach())
    assert torch.equal(*ends)


def test_a_resumed_training_goes_on_with_its_record(tmp_path: Path) -> None:
    # A batch is all the data, since Lightning begins an epoch anew where a checkpoint cut it.
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def run(folder: Path, **changes: Any) -> Any:
        return fit(folder, LightningTopologyCallback(points_every=3), rows=16, **changes)

    run(whole)
    run(cut, max_steps=4).save_checkpoint(cut / "at_4.ckpt")
    run(cut, resume=cut / "at_4.ckpt")
    for name in ("mean_lifetime", "bottleneck_first", "displacement_previous"):
        found, expected = (read_record(folder).series(name)[1:] for folder in (cut, whole))
        assert found == pytest.approx(expected, rel=1e-5), name
    assert len(found) == STEPS
    assert not list(cut.glob("topology-*"))


def test_a_function_of_one_s_own_is_given_the_lightning_module(tmp_path: Path) -> None:
    given: list[Any] = []

    def rows(made: Any) -> torch.Tensor:
        given.append(made)
        return made.model.base_model.lm_head.weight[:9]

    made = module()
    fit(tmp_path, LightningTopologyCallback(tmp_path / "rows.arrows", clouds=rows), made)
    assert given == [made] * (STEPS + 1)
    assert read_record(tmp_path / "rows.arrows").row(STEPS)["n_points"] == 9


def test_the_first_process_alone_writes_and_all_look(tmp_path: Path) -> None:
    looked: list[int] = []

    def clouds(made: Any) -> torch.Tensor:
        looked.append(1)
        return made.model.prompt_encoder.default.embedding.weight

    made = module()
    callback = LightningTopologyCallback(clouds=clouds, every=2)
    trainer = SimpleNamespace(
        global_step=0, is_global_zero=False, default_root_dir=tmp_path, max_steps=3
    )
    callback.on_train_start(trainer, made)
    for step in (1, 2, 3):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, made, None, None, 0)
    callback.on_train_end(trainer, made)
    assert len(looked) == 3
    assert not list(tmp_path.iterdir())


def test_an_interrupted_training_leaves_a_whole_record(tmp_path: Path) -> None:
    class Failing(type(module())):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            if self.trainer.global_step == 2:
                raise RuntimeError("the task failed")
            return super().training_step(batch, index)

    callback = LightningTopologyCallback(h1_every=1)
    with pytest.raises(RuntimeError, match="the task failed"):
        fit(tmp_path, callback, Failing())
    record = read_record(tmp_path)
    assert record.steps().tolist() == record.steps(0, 1).tolist() == [0, 1, 2]


def test_without_lightning_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "tsloss_fast.tuning.lightning_callback"
    for package in ("lightning", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, name)
    without = importlib.import_module(name)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning>=2\.4"'):
        without.LightningTopologyCallback()


def test_what_the_callback_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"names of mean_lifetime, .*got \['mean_death'\]"):
        LightningTopologyCallback(log="mean_death")
    with pytest.raises(TypeError, match="hidden states are there in a training step alone"):
        LightningTopologyCallback(clouds=hidden_states(slice(0, 5)))
