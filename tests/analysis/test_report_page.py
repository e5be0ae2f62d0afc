"""A report's page: safe names, nothing to fetch, and a sentence for whatever is missing."""

from __future__ import annotations

import functools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("plotly")

from report_runs import HOSTILE, hostile_vocabulary, make_run

from tsloss_fast import cli
from tsloss_fast.analysis.report import command as report
from tsloss_fast.analysis.report import names as report_names
from tsloss_fast.analysis.report.data import page_data
from tsloss_fast.analysis.report.names import VocabularyNames, find_names, visible
from tsloss_fast.analysis.runs import load_runs

pytestmark = pytest.mark.usefixtures("short_script")


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
    from tsloss_fast.analysis.record.tracker import TopologyTracker

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
    assert "too few to say anything about other runs" in Elements(page).text
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
