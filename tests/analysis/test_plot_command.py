"""`tsloss plot`: every kind and format, the same bytes each time, errors that say what there is."""

from __future__ import annotations

import json
import re
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

from tsloss_fast import cli
from tsloss_fast.analysis.plots import KINDS
from tsloss_fast.analysis.plots.command import main
from tsloss_fast.analysis.record import RECORD
from tsloss_fast.analysis.record.reader import read_record
from tsloss_fast.analysis.record.tracker import TopologyTracker
from tsloss_fast.analysis.record.writer import RecordWriter

STEPS = 4
MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF"}


def make_run(folder: Path, loss: str = "tsloss", clouds: int = 1, features: int = 3) -> Path:
    """Points are kept at the even steps; the accuracy at step s is s/10."""
    generator = torch.Generator().manual_seed(len(loss))
    points = torch.randn(clouds, 6, features, generator=generator)
    names = [f"layer {k}" for k in range(clouds)]
    with TopologyTracker(folder, h1_every=None, points_every=2, clouds=names) as tracker:
        for step in range(STEPS + 1):
            tracker.record(step, points)
            points = points * 1.1 + 0.1 * torch.randn(points.shape, generator=generator)
    lines: list[dict[str, object]] = [{"kind": "reference", "majority_rate": 0.6}]
    for step in range(STEPS):
        lines.append({"kind": "eval", "step": step, "ce": 1.0, "accuracy": step / 10})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {"config": {"loss": loss, "weight": 10.0}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "one", clouds=2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "two")
    make_run(folder / "control", "ce")
    return folder


def plot(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


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
    kind: str, run: Path, pair: Path, tmp_path: Path, saved_figures: list[Figure]
) -> None:
    for folder, count in ((run, 1), (pair, 2)):
        out = tmp_path / "new" / f"{kind}-{count}.svg"
        assert plot(kind, folder, "-o", out) == 0
        assert out.read_bytes().startswith(MAGIC[".svg"])
        panels = {"components": 1, "curves": 5}.get(kind, count)
        assert len(saved_figures[-1].axes) == panels
    assert {path.suffix for path in (tmp_path / "new").iterdir()} == {".svg"}


@pytest.mark.parametrize("suffix", list(MAGIC))
@pytest.mark.filterwarnings("error")
def test_all_kinds_are_pages_or_files_as_wide_as_a_column(
    suffix: str,
    pair: Path,
    tmp_path: Path,
    saved_figures: list[Figure],
    capsys: pytest.CaptureFixture[str],
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
        sizes = {t.get_fontsize() for t in figure.findobj(Text) if t.get_text() and t.get_visible()}
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


def titles(figure: Figure) -> list[str]:
    return [" ".join(axes.get_title(loc="left").split()) for axes in figure.axes]


@pytest.mark.parametrize(
    ("options", "step", "cloud"),
    [([], STEPS, 0), (["--step", 1], 1, 0), (["--step", 0, "--cloud", 1], 0, 1)],
)
def test_the_last_step_is_drawn_and_another_one_if_it_is_chosen(
    options: list[object],
    step: int,
    cloud: int,
    run: Path,
    tmp_path: Path,
    saved_figures: list[Figure],
) -> None:
    plot("dendrogram", run, "-o", tmp_path / "a.svg", *options)
    (merges,) = saved_figures[-1].axes[0].collections
    heights = sorted(float(s[1, 1]) for s in merges.get_segments())
    np.testing.assert_array_equal(heights, read_record(run / RECORD).row(step, cloud)["deaths"])
    name = "cross-entropy + 10 × TSLoss"
    assert titles(saved_figures[-1]) == [f"{name}, step {step}, layer {cloud}"]


@pytest.mark.parametrize("kind", ["barcode", "diagram", "dendrogram", "map"])
def test_pictures_side_by_side_share_their_axes(
    kind: str, pair: Path, tmp_path: Path, saved_figures: list[Figure]
) -> None:
    plot(kind, pair, "-o", tmp_path / "a.svg")
    left, right = saved_figures[-1].axes
    shared = [left.get_ylim() == pytest.approx(right.get_ylim())]
    shared += [left.get_xlim() == pytest.approx(right.get_xlim())]
    # A barcode has its bars side by side, a dendrogram its leaves.
    assert shared in ([True, True], [kind == "dendrogram", kind == "barcode"])
    assert left.get_xlabel() == right.get_xlabel()
    assert titles(saved_figures[-1]) == [
        f"cross-entropy + 10 × TSLoss, step {STEPS}",
        f"control: cross-entropy alone, step {STEPS}",
    ]


def test_maps_of_runs_of_other_widths_have_planes_of_their_own_and_say_so(
    run: Path, tmp_path: Path, saved_figures: list[Figure]
) -> None:
    wide = make_run(tmp_path / "wide", features=4)
    plot("map", run, wide, "-o", tmp_path / "a.svg")
    assert all(text.endswith(", in a plane of its own") for text in titles(saved_figures[-1]))


def test_curves_are_the_quantities_asked_for_and_the_control_is_dashed(
    pair: Path, tmp_path: Path, saved_figures: list[Figure]
) -> None:
    quantities = ["--quantity", "entropy_gap", "--quantity", "accuracy"]
    plot("curves", pair, "-o", tmp_path / "a.svg", *quantities, "--title", "Curves")
    gap, accuracy = saved_figures[-1].axes
    assert (gap.get_ylabel(), accuracy.get_ylabel()) == ("entropy gap (nats)", "accuracy")
    names = ["cross-entropy + 10 × TSLoss", "control: cross-entropy alone"]
    for axes in (gap, accuracy):
        lines = {line.get_label(): line for line in axes.lines}
        assert [lines[name].get_linestyle() for name in names] == ["-", "--"]
    for line, folder in zip(gap.lines[::2], (pair, pair / "control"), strict=True):
        record = read_record(folder)
        np.testing.assert_array_equal(line.get_xdata(), record.steps())
        np.testing.assert_array_equal(line.get_ydata(), record.series("entropy_gap"))
    assert list(accuracy.lines[0].get_ydata()) == [0, 0.1, 0.2, 0.3]
    assert accuracy.get_ylim() == (0, 1.03)
    assert saved_figures[-1].get_suptitle() == "Curves"
    legends = [axes.get_legend() for axes in (gap, accuracy)]
    shown = [
        [t.get_text().replace("\n", " ") for t in each.get_texts()] for each in legends if each
    ]
    assert shown == [names, ["always the most frequent answer 0.60"]]


def test_dimension_one_is_drawn_where_it_was_recorded(
    tmp_path: Path, saved_figures: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    zero = {"cloud": 0, "n_points": 2, "n_features": 1, "births": [0.0], "deaths": [1.0]}
    one = {"cloud": 0, "n_points": 2, "n_features": 1, "births": [1.0], "deaths": [3.0]}
    with_edges = zero | {"dimension": 0, "edges": [[0, 1]]}
    writer = RecordWriter(tmp_path / RECORD, {})
    writer.write([{"step": 0, **with_edges}, {"step": 0, "dimension": 1, "bars": 1, **one}])
    writer.write([{"step": 5, **with_edges}])
    writer.close()
    out = tmp_path / "a.pdf"
    for options, bars in ((["--step", 0], ["H₀\n2 bars", "H₁\n1 bar"]), ([], ["H₀\n2 bars"])):
        plot("barcode", tmp_path, "-o", out, *options)
        axes = saved_figures[-1].axes[0]
        assert [text.get_text() for text in axes.get_yticklabels()] == bars
    # Without a metric in the record the axis claims none.
    assert axes.get_xlabel() == "scale"
    plot("curves", tmp_path, "-o", out, "--quantity", "bars:1")
    assert saved_figures[-1].axes[0].get_ylabel() == "H₁: number of bars"
    # What was never kept cannot be mapped, and the rest is still drawn.
    assert "holds no points to map" in error_of(capsys, "map", tmp_path, "-o", out)
    saved_figures.clear()
    plot("all", tmp_path, "-o", out, "--quantity", "bars:1")
    assert len(saved_figures) == len(KINDS) - 1


def test_size_and_resolution_are_as_asked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    plot("components", run, "-o", out, "--width", 4, "--height", 2, "--dpi", 50)
    size = np.frombuffer(out.read_bytes()[16:24], dtype=">u4")
    assert size.tolist() == [200, 100]


def test_errors_say_what_there_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.png"
    for arguments, message in (
        (
            ["barcode", run, "-o", out, "--step", 90],
            "was not recorded; nearest: 1, 2, 3, 4 (5 steps",
        ),
        (["map", run, "-o", out, "--step", 3], "has no points in the record; nearest: 0, 2, 4"),
        (["map", run, "-o", out, "--cloud", 7], "expected one of 0 (layer 0), 1 (layer 1)"),
        (["curves", run, "-o", out, "--cloud", 7], "expected one of 0 (layer 0), 1 (layer 1)"),
        (["curves", run, "-o", out, "--quantity", "x"], "'x' is in none of the runs; expected one"),
        (["curves", run, "-o", out, "--step", 1], "the curves show all of them"),
        (["map", run, "-o", out, "--quantity", "ce"], "a map has none"),
        (["map", run, "-o", tmp_path / "a.gif"], "ends in .png, .svg or .pdf"),
        (["map", run, "-o", out, "--dpi", 0], "expected a number above 0"),
        (["map", run, "-o", out, "--width", "nan"], "expected a number above 0"),
        (["pie", run, "-o", out], "invalid choice: 'pie'"),
        (["map", tmp_path, "-o", out], "has no topology.arrows"),
    ):
        assert message in error_of(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_points_that_were_not_finite_are_an_error_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TopologyTracker(tmp_path, h1_every=None) as tracker:
        tracker.record(0, torch.randn(5, 2))
        with pytest.warns(UserWarning, match="not finite"):
            tracker.record(1, torch.full((5, 2), float("nan")))
    found = error_of(capsys, "barcode", tmp_path, "-o", tmp_path / "a.png")
    assert "has no bars at step 1: its points were not finite" in found


def test_a_figure_that_fails_leaves_the_old_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def fail(self: Figure, path: Path, **kwargs: Any) -> None:
        saved.append(path)
        path.write_bytes(b"half")
        if len(saved) == len(KINDS):
            raise OSError("disk full")

    old = tmp_path / "a-map.png"
    old.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot("all", run, "-o", tmp_path / "a.png")
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_file_that_cannot_be_written_is_noticed_before_the_runs_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-map.png").mkdir()
    found = error_of(capsys, "all", tmp_path / "no run", "-o", tmp_path / "a.png")
    assert "a-map.png is a folder" in found


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plot("--help")
    shown = capsys.readouterr().out
    assert shown.startswith("usage: tsloss plot")
    assert "example: tsloss plot" in shown
