"""The figure: what is drawn, and that the same records give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_records import make_design, make_pairs, make_run
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from tsloss_fast.benchmarks.study.figure import draw, draw_all
from tsloss_fast.benchmarks.study.outcomes import read_study


def panels(figure: Any) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes}


def test_curves_are_means_and_forests_have_the_intervals(
    tmp_path: Path, saved_figures: list[Any]
) -> None:
    records = [make_design(), *make_pairs([0.1, 0.11, 0.1, 0.12, 0.1])]
    records[2] |= {"train_ce": [1.0, 0.9]}
    assert draw(records, tmp_path / "f.png") == [tmp_path / "f.png"]
    drawn = panels(saved_figures[0])
    assert list(drawn) == ["training CE", "mean training CE", "final accuracy"]
    curves = {line.get_label(): line.get_ydata() for line in drawn["training CE"].lines}
    assert list(curves["ce"]) == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5])
    # The run that ended at the second step keeps its loss.
    assert list(curves["tsloss"])[:3] == pytest.approx([1.0, 0.9, 0.8 + 0.1 / 5])
    interval, mean, _ = drawn["final accuracy"].lines
    assert list(interval.get_xdata()) == pytest.approx([0.0949, 0.1171], abs=1e-4)
    assert list(mean.get_xdata()) == pytest.approx([0.106])
    assert mean.get_markerfacecolor() == interval.get_color()  # It excludes zero.
    assert mean.get_marker() == "o"
    assert drawn["mean training CE"].lines[1].get_markerfacecolor() == "white"


def test_the_picture_of_all_studies_has_a_panel_for_each_primary_outcome(
    tmp_path: Path, saved_figures: list[Any]
) -> None:
    one = read_study([make_design(), *make_pairs([0.1, 0.11, 0.1, 0.12, 0.1])])
    other = read_study(
        [make_design(["ce", "l2"], name="other"), *make_pairs([-0.1, -0.11, -0.1], "l2")]
    )
    assert draw_all([one, other], tmp_path / "f.png") == [tmp_path / "f.png"]
    drawn = {axes.get_title(): axes for axes in saved_figures[0].axes}
    outcomes = ("mean training CE", "final accuracy")
    assert list(drawn) == [f"{name}\n{each}" for name in ("made", "other") for each in outcomes]
    _, mean, _ = drawn["other\nfinal accuracy"].lines
    assert list(mean.get_xdata()) == pytest.approx([-0.31 / 3])
    assert [label.get_text() for label in drawn["other\nfinal accuracy"].get_yticklabels()] == [
        "l2"
    ]
    assert draw_all([], tmp_path / "g.png") == []
    # Without a second arm there is no difference to draw.
    assert draw_all([read_study([make_design(), make_run()])], tmp_path / "h.png") == []


def test_equal_records_give_equal_bytes_and_no_run_gives_no_picture(tmp_path: Path) -> None:
    records = [make_design(), *make_pairs([0.1, 0.2])]
    paths = [draw(records, tmp_path / name)[0] for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert draw([make_design()], tmp_path / "c.png") == []


def test_missing_differences_are_written(tmp_path: Path, saved_figures: list[Any]) -> None:
    records = [make_run("ce", 0), make_run("l2", 0), make_run("tsloss", 1)]
    primary = ["final_accuracy", "steps_to_accuracy"]
    design = make_design(["ce", "l2", "tsloss"], primary=primary)
    draw([design, *records], tmp_path / "f.png")
    drawn = panels(saved_figures[0])
    assert [text.get_text() for text in drawn["final accuracy"].texts] == ["no pair"]
    said = [text.get_text() for text in drawn["steps to accuracy"].texts]
    assert said == ["never reached", "no pair"]


def test_no_text_lies_on_another(tmp_path: Path, saved_figures: list[Any]) -> None:
    methods = ["ce", *(f"tsloss-schedule-{k}" for k in range(12))]
    records = [make_design(methods, primary=["train_ce", "final_accuracy"])]
    for method in methods[1:]:
        records += make_pairs([0.1, 0.2, 0.1], method)
    draw(records, tmp_path / "f.png")
    figure = saved_figures[0]
    figure.canvas.draw()  # The saved picture is smaller than the figure.
    axles = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    outside = [
        tick.label1
        for axis in axles
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text not in outside]
    shown = [text for text in texts if text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    for index, (one, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, one
        for other, beside in boxes[:index]:
            lap = Bbox.intersection(box, beside)
            assert lap is None or min(lap.width, lap.height) < 1, (one, other)
