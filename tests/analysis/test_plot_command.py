"""`tsloss plot`: every kind and format, the same bytes each time, errors that say what there is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_runs import make_pair, make_run

from tsloss_fast import cli
from tsloss_fast.analysis.plots import KINDS
from tsloss_fast.analysis.plots.command import main
from tsloss_fast.analysis.record import RECORD
from tsloss_fast.analysis.record.reader import read_record
from tsloss_fast.analysis.record.tracker import TopologyTracker
from tsloss_fast.analysis.record.writer import RecordWriter

MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF"}
NAMES = ["cross-entropy + 10 × TSLoss", "control: cross-entropy alone"]
Draw = Callable[..., Figure]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 0, 5, …, 40; points at every other of them."""
    return make_run(tmp_path_factory.mktemp("runs") / "one", clouds=["layer 0", "layer 1"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair(tmp_path_factory.mktemp("runs") / "two")


def plot(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def draw(tmp_path: Path, saved_figures: list[Figure]) -> Draw:
    """The command with a file of its own; returns the last figure that it drew."""

    def figure(*arguments: object) -> Figure:
        assert plot(*arguments, "-o", tmp_path / "new" / "a.svg") == 0
        return saved_figures[-1]

    return figure


def titles(figure: Figure) -> list[str]:
    return [" ".join(axes.get_title(loc="left").split()) for axes in figure.axes]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    try:
        code: Any = cli.main(["plot", *map(str, arguments)])
    except SystemExit as leave:
        code = leave.code
    assert code in (1, 2)
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_every_kind_is_drawn_for_a_run_and_for_a_run_with_its_control(
    kind: str, run: Path, pair: Path, tmp_path: Path, draw: Draw
) -> None:
    for folder, count in ((run, 1), (pair, 2)):
        panels = {"components": 1, "curves": 5}.get(kind, count)
        assert len(draw(kind, folder).axes) == panels
        (out,) = (tmp_path / "new").iterdir()
        assert out.read_bytes().startswith(MAGIC[".svg"])


@pytest.mark.parametrize("suffix", list(MAGIC))
@pytest.mark.filterwarnings("error")
def test_all_kinds_are_pages_or_files_as_wide_as_a_column(
    suffix: str, pair: Path, tmp_path: Path, saved_figures: list[Figure], capsys: Any
) -> None:
    out = tmp_path / f"f{suffix}"
    plot("all", pair, "-o", out)
    files = [out] if suffix == ".pdf" else [tmp_path / f"f-{kind}{suffix}" for kind in KINDS]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert capsys.readouterr().out.splitlines() == [f"wrote {path}" for path in files]
    if suffix == ".pdf":
        assert len(re.findall(rb"/Type /Page\b", out.read_bytes())) == len(KINDS)
    assert len(saved_figures) == len(KINDS)
    for figure in saved_figures:
        assert figure.get_figwidth() == 3.4
        assert figure.get_figheight() <= 9
        # Leaves have smaller names where they stand close together.
        leaves = [tick for axes in figure.axes for tick in axes.get_xticklabels()]
        shown = {text for text in figure.findobj(Text) if text.get_text() and text.get_visible()}
        sizes = [text.get_fontsize() for text in shown.difference(leaves)]
        assert 6.9 < min(sizes) <= max(sizes) <= 8.4


@pytest.mark.parametrize("suffix", list(MAGIC))
def test_each_format_has_the_same_bytes_every_time_whatever_the_users_style(
    suffix: str, pair: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix.upper()}"
    plot("map", pair, "-o", first, "--dpi", 60)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "svg.hashsalt": "x"}):
        plot("map", pair, "-o", second, "--dpi", 60)
    assert first.read_bytes().startswith(MAGIC[suffix])
    assert first.read_bytes() == second.read_bytes()


def test_text_stays_text(run: Path, tmp_path: Path) -> None:
    svg, pdf = tmp_path / "a.svg", tmp_path / "a.pdf"
    plot("barcode", run, "-o", svg, "--title", "of $a_1$ & b")
    text = svg.read_text("utf-8")
    assert "of $a_1$ &amp; b" in text
    assert "Euclidean distance" in text
    assert not re.search(r"\d{4}-\d\d-\d\d", text)
    plot("barcode", run, "-o", pdf)
    assert b"CreationDate" not in pdf.read_bytes()
    assert b"/Subtype /Type0" in pdf.read_bytes() or b"/FontFile2" in pdf.read_bytes()


def test_the_last_step_is_drawn_and_another_one_if_it_is_chosen(run: Path, draw: Draw) -> None:
    chosen: list[tuple[list[object], int, int]] = [
        ([], 40, 0), (["--step", 5], 5, 0), (["--step", 0, "--cloud", 1], 0, 1)
    ]  # fmt: skip
    for options, step, cloud in chosen:
        figure = draw("dendrogram", run, *options)
        (merges,) = figure.axes[0].collections
        heights = sorted(float(s[1, 1]) for s in merges.get_segments())
        np.testing.assert_array_equal(heights, read_record(run / RECORD).row(step, cloud)["deaths"])
        assert titles(figure) == [f"{NAMES[0]}, step {step}, layer {cloud}"]


@pytest.mark.parametrize(
    ("kind", "shared"), [("barcode", "x"), ("dendrogram", "y"), ("diagram", "xy"), ("map", "xy")]
)
def test_pictures_side_by_side_share_their_axes(
    kind: str, shared: str, pair: Path, draw: Draw
) -> None:
    figure = draw(kind, pair)
    left, right = figure.axes
    for axis in shared:
        limits = [getattr(axes, f"get_{axis}lim")() for axes in (left, right)]
        assert limits[0] == pytest.approx(limits[1])
    assert left.get_xlabel() == right.get_xlabel()
    assert titles(figure) == [f"{name}, step 40" for name in NAMES]


def test_maps_of_runs_of_other_widths_have_planes_of_their_own_and_say_so(
    run: Path, tmp_path: Path, draw: Draw
) -> None:
    figure = draw("map", run, make_run(tmp_path / "wide", features=4))
    assert all(text.endswith(", in a plane of its own") for text in titles(figure))


def test_curves_are_the_quantities_asked_for_and_the_control_is_dashed(
    pair: Path, draw: Draw
) -> None:
    quantities = ["--quantity", "entropy_gap", "--quantity", "accuracy"]
    figure = draw("curves", pair, *quantities, "--title", "Curves")
    gap, accuracy = figure.axes
    assert (gap.get_ylabel(), accuracy.get_ylabel()) == ("entropy gap (nats)", "accuracy")
    for axes in (gap, accuracy):
        lines = {line.get_label(): line for line in axes.lines}
        assert [lines[name].get_linestyle() for name in NAMES] == ["-", "--"]
    for line, folder in zip(gap.lines[::2], (pair, pair / "control"), strict=True):
        record = read_record(folder)
        np.testing.assert_array_equal(line.get_xdata(), record.steps())
        np.testing.assert_array_equal(line.get_ydata(), record.series("entropy_gap"))
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), np.linspace(0.1, 0.9, 9))
    assert accuracy.get_ylim() == (0, 1.03)
    assert figure.get_suptitle() == "Curves"
    legends = [axes.get_legend() for axes in (gap, accuracy)]
    shown = [[" ".join(t.get_text().split()) for t in each.get_texts()] for each in legends if each]
    untuned = "the untuned model, told the possible answers 0.50"
    assert shown == [NAMES, ["always the most frequent answer 0.60", untuned]]


@pytest.mark.parametrize(("gap", "drawn"), [(0.42368, False), (0.2, True)])
def test_redundancy_is_drawn_only_where_there_is_some(
    gap: float, drawn: bool, tmp_path: Path, draw: Draw
) -> None:
    with TopologyTracker(tmp_path, h1_every=None) as tracker:
        for step in range(3):
            # The shortest of four bars is 1 % below half of the mean, or far below it.
            tracker.record(step, np.array([[0.0], [1.0], [2.0], [3.0], [3.0 + gap]]))
    labels = [axes.get_ylabel() for axes in draw("curves", tmp_path).figure.axes]
    assert ("redundancy" in labels) == drawn
    assert "coefficient of variation" in [" ".join(label.split()) for label in labels]


def test_the_rates_without_tuning_are_the_mean_over_the_runs(pair: Path, draw: Draw) -> None:
    log = pair / "control" / "metrics.jsonl"
    log.write_text(log.read_text().replace('"majority_rate": 0.6', '"majority_rate": 0.2'))
    figure = draw("curves", pair, "--quantity", "accuracy")
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert "always the most frequent answer 0.40" in labels


def test_dimension_one_is_drawn_where_it_was_recorded(
    tmp_path: Path, draw: Draw, saved_figures: list[Figure], capsys: Any
) -> None:
    zero = {"cloud": 0, "n_points": 2, "n_features": 1, "births": [0.0], "deaths": [1.0]}
    one = {"cloud": 0, "n_points": 2, "n_features": 1, "births": [1.0], "deaths": [3.0]}
    with_edges = zero | {"dimension": 0, "edges": [[0, 1]]}
    writer = RecordWriter(tmp_path / RECORD, {})
    writer.write([{"step": 0, **with_edges}, {"step": 0, "dimension": 1, "bars": 1, **one}])
    writer.write([{"step": 5, **with_edges}])
    writer.close()
    for step, bars in ((0, ["H₀\n2 bars", "H₁\n1 bar"]), (5, ["H₀\n2 bars"])):
        (axes,) = draw("barcode", tmp_path, "--step", step).axes
        assert [text.get_text() for text in axes.get_yticklabels()] == bars
        # Without a metric in the record the axis claims none.
        assert axes.get_xlabel() == "scale"
    (axes,) = draw("curves", tmp_path, "--quantity", "bars:1").axes
    assert axes.get_ylabel() == "H₁: number of bars"
    # Points that were never kept cannot be mapped. The other kinds are still drawn.
    found = error_of(capsys, "map", tmp_path, "-o", tmp_path / "a.svg")
    assert "holds no points to map" in found
    saved_figures.clear()
    draw("all", tmp_path, "--quantity", "bars:1")
    assert len(saved_figures) == len(KINDS) - 1


def test_size_and_resolution_are_as_asked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    plot("components", run, "-o", out, "--width", 4, "--height", 2, "--dpi", 50)
    assert np.frombuffer(out.read_bytes()[16:24], dtype=">u4").tolist() == [200, 100]


def test_errors_say_what_there_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f-map.png").mkdir()
    out = ["-o", tmp_path / "a.png"]
    for arguments, message in (
        (["barcode", run, *out, "--step", 90], "was not recorded; nearest: 25, 30, 35, 40 of 9"),
        (["map", run, *out, "--step", 15], "has no points in the record; nearest: 0, 10, 20, 30"),
        (["map", run, *out, "--cloud", 7], "expected one of 0 (layer 0), 1 (layer 1)"),
        (["curves", run, *out, "--cloud", 7], "expected one of 0 (layer 0), 1 (layer 1)"),
        (["curves", run, *out, "--quantity", "x"], "'x' is in none of the runs; expected one"),
        (["curves", run, *out, "--step", 1], "the curves show all of them"),
        (["map", run, *out, "--quantity", "ce"], "a map has none"),
        (["map", run, "-o", tmp_path / "a.gif"], "ends in .png, .svg or .pdf"),
        (["map", run, *out, "--dpi", 0], "expected a number from 10 to 2400, got 0"),
        (["map", run, *out, "--dpi", 1e9], "expected a number from 10 to 2400"),
        (["map", run, *out, "--width", "nan"], "expected a number from 1 to 60, got nan"),
        (["map", run, *out, "--width", 0.01], "expected a number from 1 to 60"),
        (["pie", run, *out], "invalid choice: 'pie'"),
        # Before the runs are read, of which there is none here.
        (["all", tmp_path, "-o", tmp_path / "f.png"], "f-map.png is a folder"),
        (["map", tmp_path, *out], "has no topology.arrows"),
    ):
        assert message in error_of(capsys, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["f-map.png"]


@pytest.mark.filterwarnings("error")
def test_a_legend_of_many_runs_has_room(pair: Path, tmp_path: Path, draw: Draw) -> None:
    folders = [shutil.copytree(pair, tmp_path / f"seed-{seed}") for seed in range(6)]
    (axes,) = draw("components", *folders).axes
    assert len(axes.get_lines()) == 12
    # More than half of the height that a figure of one run has.
    assert axes.bbox.height > 1.35 * axes.figure.dpi


def test_points_that_were_not_finite_are_an_error_that_says_so(tmp_path: Path, capsys: Any) -> None:
    with TopologyTracker(tmp_path, h1_every=None) as tracker:
        tracker.record(0, torch.randn(5, 2))
        with pytest.warns(UserWarning, match="not finite"):
            tracker.record(1, torch.full((5, 2), float("nan")))
    found = error_of(capsys, "barcode", tmp_path, "-o", tmp_path / "a.png")
    assert "has no bars at step 1: its points were not finite" in found


def test_figures_that_fail_leave_the_old_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Figure, path: Path, **kwargs: Any) -> None:
        path.write_bytes(b"half")
        if "curves" in path.name:
            raise OSError("disk full")

    old = tmp_path / "a-map.png"
    old.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot("all", run, "-o", tmp_path / "a.png")
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]
