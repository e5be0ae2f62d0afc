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
pytest.importorskip("jinja2")

from report_runs import HOSTILE, hostile_vocabulary, make_run

from tsloss_fast import cli
from tsloss_fast.analysis.record.tracker import TopologyTracker
from tsloss_fast.analysis.report import command as report
from tsloss_fast.analysis.report import names as report_names
from tsloss_fast.analysis.report.names import find_names, visible
from tsloss_fast.analysis.runs import load_runs


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


def context_of(*folders: Path) -> dict[str, Any]:
    runs = load_runs(folders)
    return report.context(runs, [None] * len(runs), [])


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


def test_hostile_names_are_text_in_the_page_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = functools.partial(find_names, load=lambda name: hostile_vocabulary())
    monkeypatch.setattr(report_names, "find_names", load)
    strange = make_run(tmp_path / "{{script}}<i>&", loss="{{data}}<i>")
    config = json.loads((strange / "config.json").read_text())
    config["config"] |= {"task": "</script><i>", "difficulty": "\u202e<i>"}
    config["command"] = "tsloss tune --model '<i>'; \x1b[2J"
    (strange / "config.json").write_text(json.dumps(config))
    page = report.write_report([strange], tmp_path / "report.html").read_text("utf-8")
    elements = Elements(page)
    assert [tag for tag, _ in elements.found if tag in ("img", "b", "i", "iframe")] == []
    assert sum(tag == "script" for tag, _ in elements.found) == 2
    addresses = [
        value for _, attributes in elements.found for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]  # fmt: skip
    assert all(value == "data:," or str(value).startswith("#") for value in addresses)
    policy = next(str(a["content"]) for _, a in elements.found if "http-equiv" in a)
    assert re.fullmatch(r"default-src 'none'.*script-src 'sha256-[\w+/]+='", policy)
    # A namespace is a name, not an address.
    rest = page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"@import|url\(|http|[\u202a-\u202e\x1b]", rest)
    for text in ("tsloss tune --model '<i>'; \\x1b[2J", "{{data}}<i>", "\\u202e<i>"):
        assert text in elements.text
    # Nothing in the data ends its element, and it is what it was.
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert not set("<>&") & set(found[1])
    tokens = json.loads(found[1])["runs"][0]["clouds"]["0"]["map"]["tokens"]
    assert tokens
    assert {visible(name) for name in HOSTILE} >= set(tokens)
    assert f"Token 2 (‘\u2068{visible(HOSTILE[2])}\u2069’) and token 5" in elements.text


def test_a_script_that_would_end_its_element_is_refused_and_the_old_page_stays(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (
        report.write_report([runs], tmp_path / n, names=False) for n in ("a.HTM", "deep/b.html")
    )
    assert one.read_bytes() == two.read_bytes()
    before = one.read_bytes()
    monkeypatch.setattr(report, "SCRIPTS", ("page.html.j2",))
    with pytest.raises(ValueError, match="cannot be written into the page"):
        report.write_report([runs], one, names=False)
    assert one.read_bytes() == before
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_vocabulary_that_is_not_here_is_named_and_tokens_have_numbers(
    runs: Path, tmp_path: Path
) -> None:
    def missing(name: str) -> Any:
        raise RuntimeError(f"{name} is not here")

    loaded = load_runs([runs])
    found, notes = find_names(loaded, load=missing)
    assert found == [None, None]
    assert notes == [
        "The vocabulary of tiny is not to be had on this machine, so tokens have numbers and no "
        "names (tiny is not here)."
    ]
    with pytest.raises(ValueError, match=r"model other cannot be read \(other is not here\)"):
        find_names(loaded, "other", load=missing)
    asked: list[str] = []
    find_names(loaded, "other", load=lambda name: asked.append(name) or hostile_vocabulary())  # type: ignore[func-returns-value]
    assert asked == ["other"]
    card = report.context(loaded, found, notes)["stories"][0]["cards"][0]
    assert any(s.startswith("Token 2 and token 5 nearly coincide") for s in card["sentences"])
    make_run(tmp_path / "run", model=None)
    found, notes = find_names(load_runs([tmp_path / "run"]), load=lambda name: pytest.fail(name))
    assert found == [None]
    assert "--model NAME" in notes[0]


def test_a_run_that_is_not_finite_and_says_nothing_is_told_as_it_is(tmp_path: Path) -> None:
    with TopologyTracker(tmp_path / "bare", h1_every=None) as tracker:
        tracker.record(0, np.ones((3, 2)))
        with pytest.warns(UserWarning, match="not finite"):
            tracker.record(1, np.full((3, 2), np.nan))
    page = context_of(tmp_path / "bare")
    assert "deaths" not in json.loads(page["data"])["runs"][0]["clouds"]["0"]["frames"][1]
    (card,) = page["stories"][0]["cards"]
    assert card["verdict"].startswith("Not healthy at step 1: deaths that are not finite")
    assert page["answer"][0] == f"{card['verdict']}."
    assert "None of these runs is a control" in page["answer"][1]
    assert "Neither accuracy nor held-out cross-entropy" in page["relation"]["sentences"][0]
    assert [row["cells"] for row in page["table"]["rows"]] == [[card["verdict"]]]


def test_each_cloud_has_its_story_and_the_unhealthy_are_named(tmp_path: Path) -> None:
    names = [f"layer {k}" for k in range(3)]
    page = context_of(make_run(tmp_path / "prefix", clouds=names))
    assert [story["title"] for story in page["stories"]] == names
    assert [story["hidden"] for story in page["stories"]] == [False, True, True]
    ids = [card["id"] for story in page["stories"] for card in story["cards"]]
    assert ids == ["run-0", "run-0-cloud-1", "run-0-cloud-2"]
    text = "2 of 3 clouds healthy; not: layer 0"
    assert page["table"]["rows"][0]["cells"][-1] == text
    # Clouds whose titles are cut to one text are still two.
    page = context_of(make_run(tmp_path / "long", clouds=["x" * 60 + "a", "x" * 60 + "b"]))
    assert page["table"]["rows"][0]["cells"][-1].startswith("1 of 2 clouds healthy")


def test_a_page_of_many_clouds_and_steps_stays_small(tmp_path: Path) -> None:
    clouds = [f"layer {k}" for k in range(24)]
    folders = [
        make_run(tmp_path / name, clouds=clouds, points=20, steps=range(0, 200, 2), h1_every=None)
        for name in "ab"
    ]
    page = report.write_report(folders, tmp_path / "p.html", names=False)
    assert 1e6 < page.stat().st_size < 1.5e6


def test_few_runs_claim_nothing_of_others_and_five_seeds_have_intervals(
    runs: Path, tmp_path: Path
) -> None:
    relation = context_of(runs)["relation"]
    assert relation["rows"] == []
    assert "too few to say anything" in relation["sentences"][0]
    many = [make_run(tmp_path / f"seed{k}", seed=k, steps=[0, 5, 10, 15]) for k in range(5)]
    relation = context_of(*many)["relation"]
    assert sum(row["claim"] for row in relation["rows"]) > 0
    text = " ".join(relation["sentences"])
    assert " Spearman " not in text
    # The section explains the words that no other part of the page explains.
    assert text.count("Spearman’s coefficient says") == 1
    assert "Wasserstein distance to the first barcode: Sum of the changes of all bars" in text
    assert all(row["low"] <= row["coefficient"] <= row["high"] for row in relation["rows"])


def test_the_command_writes_the_page_and_says_what_is_wrong(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "folder" / "report.html"
    assert cli.main(["report", str(runs), "-o", str(out), "--no-model"]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    page = out.read_text("utf-8")
    assert "as asked for" in page
    assert "The name of a virtual token is" not in page
    # A model that was asked for has to be there; the one that a run says need not be.
    out.unlink()
    command = ["report", str(runs), "-o", str(out)]
    assert cli.main([*command, "--model", str(tmp_path / "no-model")]) == 1
    error = capsys.readouterr().err
    assert f"the vocabulary of the model {tmp_path / 'no-model'} cannot be read" in error
    assert not out.exists()
    assert cli.main(["report", str(tmp_path / "nothing")]) == 1
    assert f"there is no folder {tmp_path / 'nothing'}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["report", str(runs), "--model", "x", "--no-model"])
    # A page that cannot be written and a missing package are noticed before any run is read.
    for name in ("report.txt", "config.json", "topology.arrows", "html", ""):
        assert cli.main(["report", str(tmp_path / "nothing"), "-o", name]) == 1
        error = capsys.readouterr().err
        assert f"the page cannot have the name {name or '.'!r}" in error
        assert "expected one that ends in .html or .htm" in error
    (tmp_path / "folder.html").mkdir()
    assert cli.main(["report", str(tmp_path / "nothing"), "-o", str(tmp_path / "folder.html")]) == 1
    assert "is a folder: expected the name of the file" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs jinja2, .*tsloss-fast\[analysis\]"):
        report.write_report([tmp_path / "nothing"], tmp_path / "r.html")
