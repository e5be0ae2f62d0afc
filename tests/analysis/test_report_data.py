"""The numbers of a report's page are the record's, thinned evenly where there are too many."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("plotly")

from report_runs import hostile_vocabulary, make_run

from tsloss_fast.analysis.record.reader import read_record
from tsloss_fast.analysis.record.writer import RecordWriter
from tsloss_fast.analysis.report import data as report_data
from tsloss_fast.analysis.report.data import page_data
from tsloss_fast.analysis.report.frames import newest, thin, thin_curve
from tsloss_fast.analysis.report.map import maps
from tsloss_fast.analysis.report.names import VocabularyNames
from tsloss_fast.analysis.runs import load_runs

pytestmark = pytest.mark.usefixtures("short_script")


def test_every_bar_of_the_page_is_the_records(runs: Path) -> None:
    loaded = load_runs([runs])
    data = page_data(loaded, [None, None]).data
    assert data["slider"] == list(range(0, 41, 5))
    for run, shown in zip(loaded, data["runs"], strict=True):
        cloud = shown["clouds"]["0"]
        for step, at in zip(data["slider"], cloud["at"], strict=True):
            row, frame = run.record.row(step), cloud["frames"][at]
            assert frame["step"] == step
            np.testing.assert_allclose(frame["deaths"], row["deaths"], rtol=1e-5)
            assert frame["edges"] == row["edges"].ravel().tolist()
        for name in ("mean_lifetime", "coefficient_of_variation", "entropy_gap", "redundancy"):
            curve = cloud["curves"][name]
            assert curve["steps"] == data["slider"]
            np.testing.assert_allclose(curve["values"], run.record.series(name), rtol=1e-5)
        changed = [len(run.record.row(s)["edges_added"]) for s in data["slider"][1:]]
        assert cloud["curves"]["changed"]["values"] == [None, *changed]
    assert [run["control"] for run in data["runs"]] == [False, True]
    assert (data["runs"][1]["colour"], data["runs"][1]["dash"]) == ("#6b6b6b", "dash")


def test_the_slider_is_thinned_evenly_and_says_so_while_curves_stay_whole(tmp_path: Path) -> None:
    make_run(tmp_path / "long", steps=range(150), points=4, h1_every=None)
    page = page_data(load_runs([tmp_path / "long"]), [None])
    slider = page.data["slider"]
    assert len(slider) == 61
    assert (slider[0], slider[-1]) == (0, 149)
    assert set(np.diff(slider)) <= {2, 3}
    assert len(page.data["runs"][0]["clouds"]["0"]["curves"]["mean_lifetime"]["steps"]) == 150
    assert any("The slider shows 61 of 150 recorded steps" in note for note in page.notes)


def test_a_record_of_which_a_part_is_left_out_is_noted(tmp_path: Path) -> None:
    make_run(tmp_path / "short", steps=range(3), points=4, h1_every=None)
    with (tmp_path / "short" / "topology.arrows").open("ab") as file:
        file.write(b"\xff" * 9)
    [run] = load_runs([tmp_path / "short"])
    notes = page_data([run], [None]).notes
    said = "the record is damaged or cut off after step 2, and is read without its last 9 bytes."
    assert any(note.endswith(said) for note in notes)


def test_a_thinned_curve_keeps_its_ends_peaks_and_gaps() -> None:
    values = np.sin(np.arange(50_000) / 100) + np.random.default_rng(0).normal(size=50_000)
    values[[777, 31_234]] = [90.0, -70.0]
    for gaps in ([], [20_000, 20_001]):
        values[gaps] = np.nan
        steps, shown = thin_curve(np.arange(50_000) * 3, values, 2000)
        assert 1300 < len(steps) <= 2000
        assert (steps[0], steps[-1]) == (0, 3 * 49_999)
        np.testing.assert_array_equal(shown, values[steps // 3])
        assert (np.nanmax(shown), np.nanmin(shown)) == (90.0, -70.0)
        assert np.isnan(shown).sum() == bool(gaps)
    assert thin_curve(np.arange(3), np.ones(3), 5)[0].tolist() == [0, 1, 2]


def test_long_curves_are_thinned_and_that_is_said(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(
        "Curves of more" in note for note in page_data(load_runs([runs]), [None] * 2).notes
    )
    monkeypatch.setattr(report_data, "CURVE_POINTS", 6)
    page = page_data(load_runs([runs]), [None, None])
    for entry in page.data["runs"]:
        cloud = entry["clouds"]["0"]
        assert cloud["ends"] == [0, 40]
        for curve in (*cloud["curves"].values(), *entry["measured"].values()):
            assert 2 < len(curve["steps"]) == len(curve["values"]) <= 6
            assert (curve["steps"][0], curve["steps"][-1]) == (0, 40)
    assert any("Curves of more than 6 values" in note for note in page.notes)


def test_points_of_another_number_of_coordinates_are_left_out_of_the_map(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run" / "topology.arrows", {"clouds": ["prompt"]})
    generator = np.random.default_rng(0)
    for step, features in enumerate((6, 6, 16, 16)):
        points = generator.normal(size=(12, features))
        row = {"cloud": 0, "dimension": 0, "n_points": 12, "n_features": features}
        row |= {"deaths": [1.0] * 11, "edges": [[k, k + 1] for k in range(11)]}
        writer.write([{"step": step, **row, "points": points.ravel()}])
    writer.close()
    loaded = load_runs([tmp_path / "run"])
    page = page_data(loaded, [VocabularyNames(hostile_vocabulary())])
    entry = page.data["runs"][0]["clouds"]["0"]["map"]
    assert [frame["step"] for frame in entry["frames"]] == [2, 3]
    assert entry["at"] == [-1, -1, 0, 1]
    assert any("the map leaves out 2 of them" in note for note in page.notes)


@pytest.mark.parametrize(
    ("clouds", "expected"),
    [
        (["prompt"], [True]),
        (["task 0", "task 1"], [True, True]),
        (["layer 0 keys", "layer 0 values"], [False, False]),
        (["q.lora_A.weight rows"], [False]),
        ([], [True]),
    ],
)
def test_only_clouds_of_the_embedding_space_have_names_of_tokens(
    tmp_path: Path, clouds: list[str], expected: list[bool]
) -> None:
    from tsloss_fast.analysis.record.tracker import TopologyTracker

    with TopologyTracker(tmp_path, h1_every=None, points_every=1, clouds=clouds or None) as tracker:
        tracker.record(0, np.random.default_rng(0).normal(size=(len(expected), 12, 16)))
    page = page_data(load_runs([tmp_path]), [VocabularyNames(hostile_vocabulary())])
    shown = page.data["runs"][0]["clouds"]
    assert ["nearest" in c["map"]["frames"][0] for c in shown.values()] == expected
    assert any("no embeddings of tokens" in note for note in page.notes) == (not all(expected))


def test_the_limit_of_redundancy_is_the_records(runs: Path, tmp_path: Path) -> None:
    from tsloss_fast.analysis.record.tracker import TopologyTracker

    with TopologyTracker(tmp_path, h1_every=None, rho=0.3) as tracker:
        tracker.record(0, np.eye(3))
    data = page_data(load_runs([tmp_path, runs]), [None] * 3).data
    assert [run["rho"] for run in data["runs"]] == [0.3, 0.5, 0.5]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("Words.namer(['a']).of(0)", "token 0 (‘\u2068a\u2069’)"),
        ("Words.namer(['a']).of(1)", "token 1"),
        ("Words.namer(['a']).leaf(1)", "token 1"),
        ("Words.namer(null).leaf(1)", "token 1"),
        ("Words.below([0.5, 0.5])", "half the mean"),
        ("Words.below([0.5, 0.3])", "0.3 or 0.5 of the mean"),
    ],
)
def test_words_of_the_pages_script(expression: str, value: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    script = resources.files(report_data.__package__).joinpath("page/words.js").read_text("utf-8")
    script += f"console.log({expression});"
    done = subprocess.run([node, "-"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout == f"{value}\n"


def test_large_pages_have_fewer_steps_and_maps(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_data, "LEAST", 3)
    monkeypatch.setattr(report_data, "FRAME_POINTS", 24 * 4)  # two runs of 12 points
    monkeypatch.setattr(report_data, "MAP_POINTS", 24 * 2)
    data = page_data(load_runs([runs]), [None, None]).data
    assert data["slider"] == [0, 15, 25, 40]
    assert [len(run["clouds"]["0"]["map"]["frames"]) for run in data["runs"]] == [2, 2]


def test_a_step_shows_the_newest_record_not_after_it() -> None:
    assert newest(np.array([0, 10, 20]), [0, 5, 10, 25]).tolist() == [0, 0, 1, 2]
    assert newest(np.array([5]), [0, 5]).tolist() == [-1, 0]
    assert thin([3, 1, 1, 2], 5) == [1, 2, 3]


def test_the_map_keeps_distances_of_points_that_lie_in_a_plane(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(6, 2)))[0]
    flat = generator.normal(size=(2, 9, 2))
    records = {}
    for k in range(2):
        writer = RecordWriter(tmp_path / str(k), {})
        points = (flat[k] @ basis.T + 3).ravel()
        row = {"cloud": 0, "dimension": 0, "n_points": 9, "n_features": 6, "deaths": [1.0] * 8}
        writer.write([{"step": 0, **row, "points": points}, {"step": 4, **row}])
        writer.close()
        records[k] = read_record(tmp_path / str(k))
    found = maps(records, 0, [0, 4], 5, {})
    places = [np.reshape(found[k]["frames"][0]["xy"], (9, 2)) for k in range(2)]
    # Between runs too: they share one plane.
    between = np.linalg.norm(places[0][:, None] - places[1][None], axis=-1)
    expected = np.linalg.norm(flat[0][:, None] - flat[1][None], axis=-1)
    np.testing.assert_allclose(between, expected, atol=1e-4)
    assert found[0]["at"] == [0, 0]
    assert sum(found[0]["share"]) == pytest.approx(1)
