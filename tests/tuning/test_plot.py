"""The figure of a run and its control: every series, its last value, the rates beside accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import NEEDS

pytest.importorskip("matplotlib", reason=NEEDS)
pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

import itertools

from matplotlib.figure import Figure

from tsloss_fast.analysis.figures.axes import COLOURS
from tsloss_fast.tuning.plot import plot_runs


def make_run(folder: Path, steps: int = 20, slope: float = 1.0) -> Path:
    """A log with the series' values chosen here: value = slope · (prompt's age) + offset."""

    def topology(age: int) -> dict[str, float]:
        return {
            "mean_death": 3 + 0.01 * slope * age,
            "coefficient_of_variation": 0.05 * slope,
            "redundancy": 0.0,
        }

    records: list[dict[str, Any]] = [
        {"kind": "reference", "majority_rate": 0.625, "zero_shot_restricted_accuracy": 0.375}
    ]
    for step in range(1, steps + 1):
        records.append({"kind": "step", "step": step, "ce": 4 / step, **topology(step - 1)})
        if step % 10 == 0:
            accuracy = {"accuracy": slope * step / 100, "ce": 3 / step}
            records.append({"kind": "eval", "step": step, **accuracy, **topology(step)})
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_each_quantity_is_drawn_for_the_run_and_its_control(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    runs = {
        "with the loss": make_run(tmp_path / "a"),
        "control": make_run(tmp_path / "b", slope=2.0),
    }
    picture = plot_runs(runs, tmp_path / "out" / "plot.png")
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [path.name for path in picture.parent.iterdir()] == ["plot.png"]
    (figure,) = saved_figures
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "Cross-entropy of the answers",
        "Accuracy on the test items",
        "Mean death",
        "Coefficient of variation",
        "Redundancy",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(runs)
    for slope, colour in ((1.0, COLOURS[0]), (2.0, COLOURS[1])):
        lines = {
            title: [line for line in axes.lines if line.get_color() == colour]
            for title, axes in zip(titles, figure.axes, strict=True)
        }
        (death,) = lines["Mean death"]
        # Aligned by the age of the prompt: from the untrained one to the last.
        assert list(death.get_xdata()) == list(range(21))
        assert list(death.get_ydata()) == pytest.approx([3 + 0.01 * slope * x for x in range(21)])
        (accuracy,) = lines["Accuracy on the test items"]
        assert list(accuracy.get_xdata()) == [10, 20]
        assert list(accuracy.get_ydata()) == pytest.approx([0.1 * slope, 0.2 * slope])
        batches, test = lines["Cross-entropy of the answers"]
        assert list(batches.get_ydata()) == [4 / step for step in range(1, 21)]
        assert list(test.get_ydata()) == [0.3, 0.15]


def test_accuracy_stands_beside_the_majority_and_zero_shot_rates(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    plot_runs({"a": make_run(tmp_path / "a")}, tmp_path / "plot.png")
    axes = saved_figures[0].axes[1]
    levels = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert sorted(levels) == [0.375, 0.625]
    texts = {text.get_text() for text in axes.texts}
    assert {"majority answer 0.62", "zero-shot, given the answers' form 0.38"} <= texts


def test_labels_at_the_ends_of_lines_do_not_touch(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    runs = {name: make_run(tmp_path / name, slope=1 + i / 1e3) for i, name in enumerate("abc")}
    plot_runs(runs, tmp_path / "plot.png")
    axes = saved_figures[0].axes[2]
    labels = [text for text in axes.texts if text.get_text() == "3.2"]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert len(boxes) == 3
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))


def test_a_run_that_is_not_finished_is_drawn_as_far_as_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", steps=7)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    assert plot_runs({"a": folder}, tmp_path / "plot.png").exists()


def test_a_picture_half_written_does_not_replace_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Figure, path: Path, **kwargs: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    out = tmp_path / "out" / "plot.png"
    plot_runs({"a": make_run(tmp_path / "a")}, out)
    before = out.read_bytes()
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_runs({"a": tmp_path / "a"}, out)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_what_cannot_be_drawn_is_said_and_the_old_picture_stays(tmp_path: Path) -> None:
    out = tmp_path / "plot.png"
    out.write_bytes(b"old")
    empty = make_run(tmp_path / "empty", steps=0)
    with pytest.raises(ValueError, match="empty has no training steps yet"):
        plot_runs({"a": empty}, out)
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        plot_runs({"a": tmp_path / "nowhere"}, out)
    with pytest.raises(ValueError, match="expected 1 to 6 runs to draw, got 0"):
        plot_runs({}, out)
    (empty / "metrics.jsonl").write_text("{}\n[\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not JSON"):
        plot_runs({"a": empty}, out)
    assert out.read_bytes() == b"old"
