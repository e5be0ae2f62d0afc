"""What a report's page holds: the record's numbers, safe names, and no address to fetch from."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("plotly")

from report_runs import HOSTILE, hostile_vocabulary, make_run

from tsloss_fast import cli
from tsloss_fast.analysis.record import RecordWriter, read_record
from tsloss_fast.analysis.report import command as report
from tsloss_fast.analysis.report import data as report_data
from tsloss_fast.analysis.report import names as report_names
from tsloss_fast.analysis.report.data import page_data
from tsloss_fast.analysis.report.frames import newest, thin, thin_curve
from tsloss_fast.analysis.report.map import maps
from tsloss_fast.analysis.report.names import VocabularyNames, find_names, visible
from tsloss_fast.analysis.runs import load_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    make_run(folder)
    make_run(folder / "control", loss="ce", seed=1)
    return folder


@pytest.fixture(autouse=True)
def short_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes of plotly in every page tell these tests nothing."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "var Plotly = {};")


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    load = lambda name: hostile_vocabulary()  # noqa: E731
    monkeypatch.setattr(report_names, "find_names", functools.partial(find_names, load=load))


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert not set("<>&") & set(found[1])  # nothing that could end the element or begin another
    data: dict[str, Any] = json.loads(found[1])
    return data


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


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
    from tsloss_fast.analysis.tracker import TopologyTracker

    with TopologyTracker(tmp_path, h1_every=None, points_every=1, clouds=clouds or None) as tracker:
        tracker.record(0, np.random.default_rng(0).normal(size=(len(expected), 12, 16)))
    page = page_data(load_runs([tmp_path]), [VocabularyNames(hostile_vocabulary())])
    shown = page.data["runs"][0]["clouds"]
    assert ["nearest" in c["map"]["frames"][0] for c in shown.values()] == expected
    assert any("no embeddings of tokens" in note for note in page.notes) == (not all(expected))


def test_the_limit_of_redundancy_is_the_records(runs: Path, tmp_path: Path) -> None:
    from tsloss_fast.analysis.tracker import TopologyTracker

    with TopologyTracker(tmp_path, h1_every=None, rho=0.3) as tracker:
        tracker.record(0, np.eye(3))
    data = page_data(load_runs([tmp_path, runs]), [None] * 3).data
    assert [run["rho"] for run in data["runs"]] == [0.3, 0.5, 0.5]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("Figures.namer(['a']).of(0)", "token 0 (‘\u2068a\u2069’)"),
        ("Figures.namer(['a']).of(1)", "token 1"),
        ("Figures.namer(['a']).leaf(1)", "token 1"),
        ("Figures.namer(null).leaf(1)", "token 1"),
        ("Figures.below([0.5, 0.5])", "half the mean"),
        ("Figures.below([0.5, 0.3])", "0.3 or 0.5 of the mean"),
    ],
)
def test_words_of_the_pages_script(expression: str, value: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    script = resources.files(report_data.__package__).joinpath("page/figures.js").read_text("utf-8")
    script = f"globalThis.window = {{matchMedia: () => ({{}})}};\n{script}\n"
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


def test_names_are_the_nearest_tokens_and_stand_in_the_story(runs: Path) -> None:
    loaded = load_runs([runs])
    names = VocabularyNames(hostile_vocabulary())
    page = page_data(loaded, [names, names])
    entry = page.data["runs"][0]["clouds"]["0"]["map"]
    assert [entry["tokens"][k] for k in entry["frames"][0]["nearest"]] == list(
        map(visible, HOSTILE)
    )
    pair = next(s for s in page.stories[0, 0].sentences if "nearly coincide" in s)
    assert pair.startswith(f"Token 2 (‘\u2068{visible(HOSTILE[2])}\u2069’) and token 5")
    # A cloud that does not lie in the embedding space has numbers.
    assert VocabularyNames(hostile_vocabulary(features=4)).nearest(np.zeros((3, 16))) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("foo", "foo"),
        (" foo", "␣foo"),
        ("   ", "␣␣␣"),
        ("", "(empty)"),
        ("a\nb\x00", "a\\nb\\x00"),
        ("a\u00a0b\u3000c", "a\\xa0b\\u3000c"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("x" * 50, "x" * 23 + "…"),
    ],
)
def test_names_hide_nothing_and_stay_on_their_line(text: str, shown: str) -> None:
    assert visible(text) == shown
    shown.encode("utf-8")


@pytest.mark.usefixtures("hostile")
def test_hostile_names_are_text_in_the_page_and_nothing_is_fetched(
    runs: Path, tmp_path: Path
) -> None:
    page = report.write_report([runs], tmp_path / "report.html").read_text("utf-8")
    elements = Elements(page)
    assert [tag for tag, _ in elements.found if tag in ("img", "a", "b", "iframe")] == []
    assert sum(tag == "script" for tag, _ in elements.found) == 4
    addresses = [
        value for _, attributes in elements.found for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]  # fmt: skip
    assert addresses == ["data:,"]
    policy = next(a["content"] for _, a in elements.found if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    # A namespace is a name, not an address.
    rest = page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"@import|url\(|http", rest)
    # Nothing in the data ends its element, and it is what it was.
    tokens = data_of(page)["runs"][0]["clouds"]["0"]["map"]["tokens"]
    assert {visible(name) for name in HOSTILE} >= set(tokens)
    assert visible(HOSTILE[2]) in elements.text


def test_a_page_can_hold_what_looks_like_its_own_places(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = make_run(tmp_path / "{{script}}<i>&", loss="{{data}}")
    page = report.write_report([strange], tmp_path / "r.html", names=False).read_text("utf-8")
    assert "{{data}}" in data_of(page)["runs"][0]["name"]
    assert not any(tag == "i" for tag, _ in Elements(page).found)
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "'</SCRIPT>'")
    with pytest.raises(ValueError, match="cannot be written into the page"):
        report.write_report([runs], tmp_path / "r.html", names=False)
    # What was there before is there still.
    assert (tmp_path / "r.html").read_text("utf-8") == page
    assert not list(tmp_path.glob(".tmp-*"))


def test_the_same_record_gives_the_same_page(runs: Path, tmp_path: Path) -> None:
    one, two = (report.write_report([runs], tmp_path / n, names=False) for n in ("a", "deep/b"))
    assert one.read_bytes() == two.read_bytes()


def test_without_the_model_the_page_says_so_and_counts_tokens(runs: Path) -> None:
    def missing(name: str) -> Any:
        raise RuntimeError(f"{name} is not here")

    loaded = load_runs([runs])
    found, notes = find_names(loaded, load=missing)
    assert found == [None, None]
    assert notes == [
        "The vocabulary of tiny is not to be had on this machine, so tokens have numbers and no "
        "names (tiny is not here)."
    ]
    asked: list[str] = []
    find_names(loaded, "other", load=lambda name: asked.append(name) or hostile_vocabulary())  # type: ignore[func-returns-value]
    assert asked == ["other"]
    story = page_data(loaded, found).stories[0, 0]
    assert any(s.startswith("Token 2 and token 5 nearly coincide") for s in story.sentences)


def test_a_run_that_names_no_model_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "run", model=None)
    found, notes = find_names(load_runs([tmp_path / "run"]), load=lambda name: pytest.fail(name))
    assert found == [None]
    assert "--model NAME" in notes[0]


def test_loops_are_drawn_where_they_mean_something_and_otherwise_a_sentence(
    runs: Path, tmp_path: Path
) -> None:
    make_run(tmp_path / "none", points=4, h1_every=None)
    make_run(tmp_path / "few", points=4)
    make_run(tmp_path / "many", points=45, steps=[0, 10])
    for name, expected in (
        ("none", "Loops were not recorded: 4 tokens have almost no loops"),
        ("few", "No loop was found in 3 records: 4 tokens have almost no loops"),
    ):
        (cloud,) = (
            page_data(load_runs([tmp_path / name]), [None]).data["runs"][0]["clouds"].values()
        )
        assert cloud["no_h1"].startswith(expected)
        assert "h1" not in cloud
    run = load_runs([tmp_path / "many"])[0]
    (cloud,) = page_data([run], [None]).data["runs"][0]["clouds"].values()
    row = run.record.row(0, 0, 1)
    np.testing.assert_allclose(cloud["h1"]["frames"][0]["births"], row["births"], rtol=1e-5)
    assert len(row["births"]) > 0


def test_points_that_are_not_finite_and_notes_on_what_is_missing(tmp_path: Path) -> None:
    from tsloss_fast.analysis.tracker import TopologyTracker

    with TopologyTracker(tmp_path / "bare", h1_every=None) as tracker:
        tracker.record(0, np.ones((3, 2)))
        with pytest.warns(UserWarning, match="not finite"):
            tracker.record(1, np.full((3, 2), np.nan))
    with (tmp_path / "bare" / "topology.arrows").open("ab") as file:
        file.write(b"half a batch")
    page = page_data(load_runs([tmp_path / "bare"]), [None])
    (cloud,) = page.data["runs"][0]["clouds"].values()
    assert "deaths" not in cloud["frames"][1]
    assert page.stories[0, 0].verdict.startswith(
        "Not healthy at step 1: deaths that are not finite"
    )
    assert any("12 bytes" in note for note in page.notes)
    assert any("None of these runs is a control" in note for note in page.notes)
    text = report.write_report([tmp_path / "bare"], tmp_path / "p.html").read_text("utf-8")
    assert "Nothing was measured of a task" in text
    assert "do not say which language model" in text


def test_each_cloud_has_its_story_and_the_unhealthy_are_named(tmp_path: Path) -> None:
    names = [f"layer <{k}>" for k in range(3)]
    folder = make_run(tmp_path / "prefix", clouds=names)
    page = report.write_report([folder], tmp_path / "p.html", names=False).read_text("utf-8")
    boxes = [a for _, a in Elements(page).found if "data-cloud" in a]
    assert [box["data-cloud"] for box in boxes] == ["0", "1", "2"]
    assert ["hidden" in box for box in boxes] == [False, True, True]
    assert "2 of 3 clouds healthy at the last record; not: layer <0>." in Elements(page).text
    headings = re.findall(r'class="note"><bdi>(.*?)</bdi>', page)
    assert headings == [f"layer &lt;{k}&gt;" for k in range(3)]
    assert data_of(page)["clouds"] == [[k, name] for k, name in enumerate(names)]


def test_few_runs_claim_nothing_and_many_begin_with_a_table(runs: Path, tmp_path: Path) -> None:
    page = report.write_report([runs], tmp_path / "two.html", names=False).read_text("utf-8")
    assert "2 runs: too few to say anything about other runs" in Elements(page).text
    assert "it describes these runs, and says nothing of others" in Elements(page).text
    many = [make_run(tmp_path / f"seed{k}", seed=k, steps=[0, 5, 10, 15]) for k in range(5)]
    page = report.write_report(many, tmp_path / "five.html", names=False).read_text("utf-8")
    assert "intervals exclude zero; they are blue below" in Elements(page).text
    assert sum(tag == "circle" for tag, _ in Elements(page).found) > 5
    assert Elements(page).text.index("First → last value") < page.index("Each run in words")


def test_the_command_writes_the_page_and_says_what_is_wrong(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder" / "report.html"
    assert cli.main(["report", str(runs), "-o", str(out), "--no-model"]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    assert "as asked for" in out.read_text("utf-8")
    assert cli.main(["report", str(tmp_path / "nothing")]) == 1
    assert "has no topology.arrows" in capsys.readouterr().err
    assert cli.main(["report", str(runs), "-o", str(tmp_path)]) == 1
    assert "is a folder: expected the file to write" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["report", str(runs), "--model", "x", "--no-model"])


def test_a_missing_package_is_named_with_the_way_to_get_it(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs plotly, .*tsloss-fast\[analysis\]"):
        report.write_report([runs], tmp_path / "r.html")
