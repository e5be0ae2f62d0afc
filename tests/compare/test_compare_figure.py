"""The figure of a comparison: curves and differences are the records', and nothing overlaps."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("pyarrow")

from made_records import make_design, make_experiment, make_pairs, make_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from tsloss_fast.compare.comparison import read_experiment
from tsloss_fast.compare.figure import METHOD_COLOURS, draw, method_colours
from tsloss_fast.compare.summary import summarize

METHODS = (
    "ce", "l2", "pairwise", "hofer", "surrogate-h0", "surrogate-h1", "surrogate", "connectivity",
    "redundancy", "tsloss", "tsloss-compact", "tsloss-loops",
)  # fmt: skip


def shown_texts(figure: Figure) -> list[Text]:
    """All but the labels of ticks beyond the limits, which are made but not drawn."""
    figure.canvas.draw()
    texts = [*figure.texts, *figure.legends[0].get_texts()]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, *axes.texts]
        for place, axis in ((0, axes.xaxis), (1, axes.yaxis)):
            low, high = sorted(axis.get_view_interval())
            labels = axis.get_ticklabels()
            texts += [label for label in labels if low <= label.get_position()[place] <= high]
    return [text for text in texts if text.get_text()]


def panels(figure: Figure, name: str) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() == name]


def test_the_curve_of_a_method_is_its_mean_and_the_band_its_range(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    runs = [
        make_run("ce", 0, accuracy=[0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]),
        make_run("ce", 1, accuracy=[0.5, 0.6, 0.6, 0.8, 0.8, 0.8, 0.8]),
        make_run("tsloss", 0, accuracy=0.9),
    ]
    draw([make_design(), *runs], tmp_path / "figure.png")
    (axes,) = panels(saved_figures[0], "curves")
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["ce"].get_xdata()) == list(range(0, 70, 10))
    assert list(lines["ce"].get_ydata()) == pytest.approx([0.5, 0.55, 0.6, 0.7, 0.7, 0.7, 0.7])
    assert lines["ce"].get_color() == "#000000"
    assert lines["tsloss"].get_color() == METHOD_COLOURS[0]
    band = axes.collections[-1].get_paths()[0].vertices
    for step, ends in ((10, {0.5, 0.6}), (20, {0.6}), (30, {0.6, 0.8})):
        assert set(band[band[:, 0] == step, 1]) == ends


def test_the_rates_without_training_are_lines_with_their_numbers(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    draw([make_design(), *make_pairs([0.1] * 5)], tmp_path / "figure.png")
    (axes,) = panels(saved_figures[0], "curves")
    levels = [line.get_ydata()[0] for line in axes.lines if line.get_label().startswith("_")]
    assert sorted(levels) == pytest.approx([0.5, 0.55])
    assert [t.get_text() for t in axes.texts] == ["zero-shot 0.50", "majority 0.55"]


def test_the_forest_has_the_differences_and_steps_as_a_share_of_all(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    runs = make_pairs([0.1, -0.05, 0.15, 0.2, 0.3])
    experiment = read_experiment([make_design(), *runs])
    found = {c.outcome.name: c.difference for c in experiment.compare(experiment.groups[0])}
    draw([make_design(), *runs], tmp_path / "figure.png")
    for name, scale in (
        ("final_accuracy", 1),
        ("steps_to_accuracy", 1 / 60),
    ):
        (axes,) = panels(saved_figures[0], name)
        _, interval, point = axes.lines
        ends = [found[name].low * scale, found[name].high * scale]
        assert list(interval.get_xdata()) == pytest.approx(ends)
        assert list(point.get_xdata()) == pytest.approx([found[name].mean * scale])
        left, right = axes.get_xlim()
        assert left < min(0, *ends)
        assert max(0, *ends) < right
        # Filled where zero is excluded.
        filled = point.get_markerfacecolor() == METHOD_COLOURS[0]
        assert filled == found[name].claim
    assert found["final_accuracy"].claim
    assert found["steps_to_ce"] is None
    (accuracy,), (steps,) = (
        panels(saved_figures[0], "final_accuracy"),
        panels(saved_figures[0], "steps_to_ce"),
    )
    assert accuracy.get_xlabel() == "better →"
    assert steps.get_xlabel().startswith("← better")
    # The tinted side is the better one.
    assert accuracy.patches[0].get_extents().x1 > accuracy.transData.transform((0, 0))[0] + 1
    assert steps.patches[0].get_extents().x0 < steps.transData.transform((0, 0))[0] - 1


def test_a_method_keeps_its_colour_in_every_group(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    records = make_experiment(METHODS, ["boolean", "reviews"], seeds=2)
    lacking = [
        r
        for r in records
        if r["kind"] != "run" or (r["trial"]["method"], r["trial"]["task"]) != ("l2", "reviews")
    ]
    draw(lacking, tmp_path / "figure.png")
    looks = method_colours(read_experiment(lacking))
    assert len(set(looks.values())) == len(METHODS)
    for axes in panels(saved_figures[0], "curves"):
        for line in axes.lines:
            if not line.get_label().startswith("_"):
                assert line.get_color() == looks[line.get_label()][0]
    first, second = panels(saved_figures[0], "final_accuracy")
    for axes in (first, second):
        for label in axes.get_yticklabels():
            assert label.get_color() == looks[label.get_text()][0]
    assert "l2" in [label.get_text() for label in first.get_yticklabels()]
    assert "l2" not in [label.get_text() for label in second.get_yticklabels()]
    many = method_colours(read_experiment([make_design([f"m{i}" for i in range(30)])]))
    assert len(set(map(str, many.values()))) == 30


def test_no_text_touches_another_with_twelve_methods_and_four_groups(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    tasks = ["boolean", "reviews", "object_counting", "navigate"]
    records = make_experiment(METHODS, tasks, seeds=2)
    for record in records[1:]:
        if record["trial"]["task"] == "reviews":
            record["reference"]["zero_shot_restricted_accuracy"] = 0.549
    draw(records, tmp_path / "figure.png")
    (figure,) = saved_figures
    page, boxes = figure.bbox, []
    for text in shown_texts(figure):
        assert text.get_fontsize() >= 8.5
        box = text.get_window_extent()
        assert page.x0 <= box.x0 < box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0 < box.y1 <= page.y1, text.get_text()
        boxes.append((text.get_text(), box))
    assert len(boxes) > 200
    for (a, first), (b, second) in itertools.combinations(boxes, 2):
        assert not first.overlaps(second), (a, b)


def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = make_experiment(["ce", "l2", "tsloss"], ["boolean"], seeds=3)
    (first,) = draw(records, tmp_path / "a.png")
    (again,) = draw(records[:1] + records[:0:-1], tmp_path / "deep" / "b.png")
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "deep"]


def test_names_of_files_are_shown_as_text(tmp_path: Path) -> None:
    tasks = ["caf\udce9\x1b[2J.jsonl", "boolean"]
    records = make_experiment(["ce", "l2"], tasks, seeds=2)
    (path,) = draw(records, tmp_path / "figure.png")
    assert path.exists()
    page = summarize(records)
    assert "caf\\udce9\\x1b[2J.jsonl" in page
    assert not {"\x1b", "\udce9"} & set(page)


def test_more_than_four_groups_go_on_in_another_picture(
    tmp_path: Path, saved_figures: list[Figure]
) -> None:
    tasks = ["a", "b", "c", "d", "e"]
    paths = draw(make_experiment(["ce", "l2"], tasks, seeds=2), tmp_path / "figure.png")
    assert [path.name for path in paths] == ["figure.png", "figure-2.png"]
    assert all(path.exists() for path in paths)
    assert [len(panels(figure, "curves")) for figure in saved_figures] == [4, 1]


def test_what_is_underway_is_drawn_as_far_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "figure.png"
    assert draw([make_design(), make_run("ce", 1000, stage="search")], out) == []
    assert not out.exists()
    assert draw([make_run("tsloss", 0)], out) == [out]
    assert draw([make_run("ce", 0)], out) == [out]
    assert draw([make_run("ce", 0), make_run("tsloss", 0), make_run("l2", 1)], out) == [out]
    one = make_run("ce", 1)
    one["reference"] = {}
    assert draw([one], out) == [out]
