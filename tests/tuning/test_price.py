"""The price of a loss is that of the same loss in both libraries, or there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import NEEDS
from torch import Tensor

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("gudhi", reason="GUDHI is what tsloss_fast is compared with")

from tsloss_fast.benchmarks import price
from tsloss_fast.benchmarks.differentiable import plain_loss

from tsloss_fast import TSLoss

# The benchmark sets the threads of torch.
pytestmark = pytest.mark.usefixtures("threads")


def test_the_table_prices_a_prompt_and_the_prefixes_of_all_layers(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "price.md"
    arguments = ["--quick", "--model", str(tiny_model_dir), "--threads", "1"]
    assert price.main([*arguments, "--output", str(target)]) == 0
    printed = capsys.readouterr().out
    assert target.read_text(encoding="utf-8") == printed
    for fact in (
        "threads of torch 1",
        f"torch {torch.__version__}",
        "gudhi 3",
        str(tiny_model_dir),
    ):
        assert fact in printed

    table = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:1] == "|"]
    assert {len(row) for row in table[:1] + table[2:]} == {10}
    # Two layers, whose two key-value heads have 8 dimensions each.
    assert [row[0] for row in table[2:]] == ["a prompt of 10 × 32", "4 prefixes of 10 × 16"]
    for row in table[2:]:
        shares = [float(row[column].removesuffix(" %")) for column in (3, 5)]
        assert all(0 < share < 100 for share in shares)
        assert row[6] in ("points", "distances")
        assert row[7].endswith("×")
        assert all(float(cell) <= 1e-4 for cell in row[8:])
    sentence = next(line for line in printed.splitlines() if line.startswith("A step with GUDHI"))
    assert sentence.count(" % (") == 2
    both = next(line for line in printed.splitlines() if line.startswith("The loss with its terms"))
    assert both.count("with a barcode each and") == both.count("with one for both") == 2
    assert both.count("× (") == 2


def test_a_loss_and_its_record_share_a_barcode_where_the_line_says_so(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, barcodes: list[None]
) -> None:
    used: dict[str, list[int]] = {"untimed": [], "separate": [], "shared": []}
    measured = price._loss_and_record

    def counted(points: Tensor, number: int, loss: TSLoss, tracker: Any, barcode: Any) -> float:
        before = len(barcodes)
        seconds = measured(points, number, loss, tracker, barcode)
        used[tracker.path.parent.name].append(len(barcodes) - before)
        return seconds

    monkeypatch.setattr(price, "_loss_and_record", counted)
    price.main(["--quick", "--model", str(tiny_model_dir), "--threads", "1"])
    # Two rows of three steps.
    assert used["separate"] == [2] * 6
    assert used["shared"] == [1] * 6


def test_the_shares_and_the_ratio_of_the_steps_are_what_they_say() -> None:
    row = price.Price("a prompt", 0.9, 0.1, 1.1, 0.2, 0.1, "points", 0.0, 0.0)
    assert row.share(row.ours) == pytest.approx(0.1)
    assert row.share(row.gudhi) == pytest.approx(0.55)
    assert row.more_expensive == pytest.approx(2.0)


def shifted(deaths: Tensor) -> Tensor:
    """Another loss with the same gradient."""
    return plain_loss(deaths) + 0.01


def stretched(deaths: Tensor) -> Tensor:
    """The same loss with another gradient."""
    loss = plain_loss(deaths)
    return loss.detach() + 1.01 * (loss - loss.detach())


def undefined(deaths: Tensor) -> Tensor:
    return plain_loss(deaths) * torch.nan


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("plain_loss", shifted, "the loss by GUDHI from points .* differs by"),
        ("plain_loss", stretched, "the gradient by GUDHI from points .* differs by"),
        ("plain_loss", undefined, "the loss by GUDHI from points .* NaN"),
        ("TSLoss", lambda: TSLoss(rho=0.9), "the loss by GUDHI from points .* differs by"),
    ],
)
def test_losses_that_differ_have_no_price(
    name: str,
    changed: Callable[..., object],
    message: str,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "price.md"
    monkeypatch.setattr(price, name, changed)
    with pytest.raises(RuntimeError, match=message):
        price.main(["--quick", "--model", str(tiny_model_dir), "--output", str(target)])
    assert not target.exists()


@pytest.mark.parametrize("bad", [["--steps", "2"], ["--threads", "0"]])
def test_a_measurement_of_nothing_is_refused(bad: list[str]) -> None:
    with pytest.raises(SystemExit):
        price.main(bad)
