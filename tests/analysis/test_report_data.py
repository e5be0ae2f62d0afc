"""The numbers of a report's page are the record's, thinned evenly where there are too many."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from report_runs import HOSTILE, hostile_vocabulary, make_run, make_seeds

from tsloss_fast.analysis.record.tracker import TopologyTracker
from tsloss_fast.analysis.record.writer import RecordWriter
from tsloss_fast.analysis.report import data as report_data
from tsloss_fast.analysis.report.data import methods, page_data, thin
from tsloss_fast.analysis.report.names import VocabularyNames, visible
from tsloss_fast.analysis.runs import Run, load_runs


def drawn(runs: Sequence[Run], *names: VocabularyNames) -> tuple[dict[str, Any], list[str]]:
    return page_data(runs, names or [None] * len(runs), methods(runs))


def test_every_bar_and_every_curve_of_the_page_is_the_records(runs: Path) -> None:
    loaded = load_runs([runs])
    data, _ = drawn(loaded)
    assert data["slider"] == list(range(0, 41, 5))
    panels = {panel["name"]: panel for panel in data["panels"]["0"]}
    for k, (run, shown) in enumerate(zip(loaded, data["runs"], strict=True)):
        cloud = shown["clouds"]["0"]
        for step, at in zip(data["slider"], cloud["at"], strict=True):
            row, frame = run.record.row(step), cloud["frames"][at]
            assert (frame["step"], frame["n"]) == (step, 12)
            np.testing.assert_allclose(frame["deaths"], row["deaths"], rtol=1e-5)
            assert frame["edges"] == row["edges"].ravel().tolist()
        for name in ("mean_lifetime", "coefficient_of_variation", "entropy_gap", "redundancy"):
            line = panels[name]["lines"][k]
            assert line["steps"] == data["slider"]
            np.testing.assert_allclose(line["values"], run.record.series(name), rtol=1e-5)
        changed = [len(run.record.row(s)["edges_added"]) for s in data["slider"][1:]]
        assert panels["changed_merges"]["lines"][k]["values"] == [None, *changed]
    looks = [(run["colour"], run["dash"]) for run in data["runs"]]
    assert looks == [("#0072B2", ""), ("#6b6b6b", "6 4")]
    assert panels["accuracy"]["rates"][0]["value"] == 0.6
    assert (panels["changed_merges"]["whole"], panels["ce"]["whole"]) == (True, False)


def test_seeds_have_one_line_with_a_band_and_one_colour(tmp_path: Path) -> None:
    loaded = load_runs([make_seeds(tmp_path, seeds=3)])
    data, _ = drawn(loaded)
    groups = methods(loaded)
    assert [group["runs"] for group in groups] == [[0, 2, 4], [1, 3, 5]]
    assert data["shown"] == [0, 1]
    panel = next(p for p in data["panels"]["0"] if p["name"] == "mean_lifetime")
    values = np.array([run.record.series("mean_lifetime") for run in loaded[::2]])
    line = panel["lines"][0]
    assert len(panel["lines"]) == 2
    np.testing.assert_allclose(line["values"], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(line["low"], values.min(0), rtol=1e-5)
    np.testing.assert_allclose(line["high"], values.max(0), rtol=1e-5)
    assert {data["runs"][k]["colour"] for k in (0, 2, 4)} == {groups[0]["colour"]}


def test_a_curve_that_never_changes_becomes_a_sentence(tmp_path: Path) -> None:
    with TopologyTracker(tmp_path, h1_every=None) as tracker:
        for step in range(3):
            tracker.record(step, (step + 1.0) * np.eye(3))
    data, _ = drawn(load_runs([tmp_path]))
    assert data["quiet"]["0"][1].startswith("Entropy gap (nats) was 0 wherever it was recorded.")
    names = [panel["name"] for panel in data["panels"]["0"]]
    assert "mean_lifetime" in names
    assert not {"redundancy", "entropy_gap", "changed_merges"} & set(names)


def test_a_run_that_was_cut_off_neither_hides_a_curve_nor_enters_its_mean(tmp_path: Path) -> None:
    make_seeds(tmp_path, seeds=3)
    shutil.rmtree(tmp_path / "seed-001" / "control")
    make_run(tmp_path / "seed-001" / "control", loss="ce", seed=1, steps=[0])
    # This seed has the whole record and half of the log.
    log = tmp_path / "seed-002" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:9]))
    loaded = load_runs([tmp_path])
    assert [group["whole"] for group in methods(loaded)] == [[0, 2], [1, 5]]
    panels = {panel["name"]: panel["lines"] for panel in drawn(loaded)[0]["panels"]["0"]}
    for place, whole in enumerate(([0, 2], [1, 5])):
        for name in ("mean_lifetime", "accuracy"):
            assert panels[name][place]["steps"] == list(range(0, 41, 5))
        values = [loaded[k].record.series("mean_lifetime") for k in whole]
        np.testing.assert_allclose(
            panels["mean_lifetime"][place]["values"], np.mean(values, 0), rtol=1e-5
        )


def test_of_one_point_and_of_equal_points_no_spread_is_told(tmp_path: Path) -> None:
    for name, points in (("one", np.ones((1, 3))), ("equal", np.ones((4, 3)))):
        with TopologyTracker(tmp_path / name, h1_every=1) as tracker:
            for step in range(2):
                tracker.record(step, points)
        data, _ = drawn(load_runs([tmp_path / name]))
        quiet = " ".join(data["quiet"]["0"])
        assert "Coefficient of variation" not in quiet
        assert ("Mean death was 0" in quiet) == (name == "equal")
        if name == "one":
            assert ": 1 token can hardly have a loop" in data["runs"][0]["clouds"]["0"]["no_h1"]


def test_the_slider_is_thinned_evenly_and_says_so_while_curves_stay_whole(tmp_path: Path) -> None:
    make_run(tmp_path / "long", steps=range(150), points=4, h1_every=None)
    data, notes = drawn(load_runs([tmp_path / "long"]))
    assert len(data["slider"]) == 61
    assert (data["slider"][0], data["slider"][-1]) == (0, 149)
    assert set(np.diff(data["slider"])) <= {2, 3}
    assert len(data["panels"]["0"][-1]["lines"][0]["steps"]) == 150
    assert any("The slider shows 61 of 150 recorded steps" in note for note in notes)


def test_large_pages_have_fewer_steps_maps_and_values(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_data, "LEAST", 3)
    monkeypatch.setattr(report_data, "FRAME_POINTS", 24 * 4)  # two runs of 12 points
    monkeypatch.setattr(report_data, "MAP_POINTS", 24 * 2)
    monkeypatch.setattr(report_data, "CURVE_POINTS", 6)
    data, _ = drawn(load_runs([runs]))
    assert data["slider"] == [0, 15, 25, 40]
    assert [len(run["clouds"]["0"]["map"]["frames"]) for run in data["runs"]] == [2, 2]
    for panel in data["panels"]["0"]:
        for line in panel["lines"]:
            assert 2 < len(line["steps"]) == len(line["values"]) <= 6
            assert panel["name"] == "loops" or (line["steps"][0], line["steps"][-1]) == (0, 40)


def test_what_is_thinned_is_evenly_spaced_with_its_ends() -> None:
    assert thin(11, 3).tolist() == [0, 5, 10]
    assert thin(3, 5).tolist() == [0, 1, 2]
    assert set(np.diff(thin(50_000, 2000))) == {25, 26}


def test_points_of_another_number_of_coordinates_are_left_out_of_the_map(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "run" / "topology.arrows", {"clouds": ["prompt"]})
    generator = np.random.default_rng(0)
    for step, features in enumerate((6, 6, 16, 16)):
        row = {"cloud": 0, "dimension": 0, "n_points": 12, "n_features": features}
        row |= {"deaths": [1.0] * 11, "edges": [[k, k + 1] for k in range(11)]}
        points = generator.normal(size=(12, features)).ravel()
        writer.write([{"step": step, **row, "points": points}])
    writer.close()
    with (tmp_path / "run" / "topology.arrows").open("ab") as file:
        file.write(b"\xff" * 9)
    names = [VocabularyNames(hostile_vocabulary())]
    data, notes = drawn(load_runs([tmp_path / "run"]), *names)
    entry = data["runs"][0]["clouds"]["0"]["map"]
    assert [frame["step"] for frame in entry["frames"]] == [2, 3]
    assert entry["at"] == [-1, -1, 0, 1]
    assert any("the number of coordinates changes; the map leaves out" in note for note in notes)
    damaged = "the record is damaged or cut off after step 3, and is read without its last 9 bytes."
    assert any(note.endswith(damaged) for note in notes)


def test_the_map_keeps_distances_of_points_that_lie_in_a_plane(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(6, 2)))[0]
    flat = generator.normal(size=(2, 9, 2))
    for k in range(2):
        writer = RecordWriter(tmp_path / str(k) / "topology.arrows", {})
        points = (flat[k] @ basis.T + 3).ravel()
        row = {"step": 0, "cloud": 0, "dimension": 0, "n_points": 9, "n_features": 6}
        row |= {"deaths": [1.0] * 8, "edges": [[i, i + 1] for i in range(8)]}
        writer.write([row | {"points": points}, row | {"step": 4}])
        writer.close()
    data, _ = drawn(load_runs([tmp_path / "0", tmp_path / "1"]))
    maps = [run["clouds"]["0"]["map"] for run in data["runs"]]
    places = [np.reshape(found["frames"][0]["xy"], (9, 2)) for found in maps]
    # Runs share one plane, so that distances between them are kept, too.
    between = np.linalg.norm(places[0][:, None] - places[1][None], axis=-1)
    expected = np.linalg.norm(flat[0][:, None] - flat[1][None], axis=-1)
    np.testing.assert_allclose(between, expected, atol=1e-4)
    assert maps[0]["at"] == [0, 0]
    assert sum(maps[0]["share"]) == pytest.approx(1)


def test_a_point_is_named_after_the_nearest_token(runs: Path) -> None:
    vocabulary = hostile_vocabulary()
    data, _ = drawn(load_runs([runs]), *[VocabularyNames(vocabulary)] * 2)
    entry = data["runs"][0]["clouds"]["0"]["map"]
    first = entry["frames"][0]
    assert [entry["tokens"][k] for k in first["nearest"]] == [visible(name) for name in HOSTILE]
    assert len(entry["places"]) == 2 * len(entry["tokens"])
    points = load_runs([runs])[0].record.row(0)["points"]
    expected = vocabulary.nearest(points, 1).distances[:, 0].numpy()
    np.testing.assert_allclose(first["distances"], expected, rtol=1e-5)
    # Points of another number of coordinates do not lie in the embedding space.
    assert VocabularyNames(hostile_vocabulary(features=4)).nearest(np.zeros((3, 16))) is None


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
    with TopologyTracker(tmp_path, h1_every=None, points_every=1, clouds=clouds or None) as tracker:
        tracker.record(0, np.random.default_rng(0).normal(size=(len(expected), 12, 16)))
    data, notes = drawn(load_runs([tmp_path]), VocabularyNames(hostile_vocabulary()))
    shown = data["runs"][0]["clouds"]
    assert ["nearest" in c["map"]["frames"][0] for c in shown.values()] == expected
    assert any("no embeddings of tokens have no names" in note for note in notes) == (
        not all(expected)
    )


def test_a_missing_map_is_noted(runs: Path, tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "topology.arrows", {})
    writer.write([{"step": 0, "cloud": 0, "dimension": 0, "n_points": 2, "n_features": 2}])
    writer.close()
    _, notes = drawn(load_runs([tmp_path, runs]))
    assert sum("the points were not kept, so there is no map" in note for note in notes) == 1


def test_loops_are_drawn_where_they_mean_something_and_otherwise_a_sentence(tmp_path: Path) -> None:
    make_run(tmp_path / "none", points=4, h1_every=None)
    make_run(tmp_path / "few", points=4)
    make_run(tmp_path / "many", points=45, steps=[0, 10])
    loaded = load_runs([tmp_path / name for name in ("none", "few", "many")])
    none, few, many = (run["clouds"]["0"] for run in drawn(loaded)[0]["runs"])
    assert none["no_h1"].startswith("Loops were not recorded: 4 tokens can hardly have a loop")
    assert few["no_h1"].startswith(
        "No loop was found in 3 records: 4 tokens can hardly have a loop"
    )
    assert "h1" not in few
    row = loaded[2].record.row(0, 0, 1)
    np.testing.assert_allclose(many["h1"]["frames"][0]["births"], row["births"], rtol=1e-5)
    assert len(row["births"]) > 0
