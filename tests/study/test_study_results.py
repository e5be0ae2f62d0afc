"""The file of results: only whole lines are added to it, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tsloss_fast.benchmarks.study.results import ResultsFile, read_results


def test_results_are_only_ever_added_to(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    file = ResultsFile(path)
    file.append([{"kind": "a"}, {"kind": "b"}])
    file.close()
    path.write_bytes(path.read_bytes() + b'{"kind":"c"')
    assert [record["kind"] for record in read_results(path)] == ["a", "b"]
    file = ResultsFile(path)
    assert [record["kind"] for record in file.records] == ["a", "b"]
    file.append([{"kind": "d"}])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.append([{"kind": "e"}, {"kind": "f", "value": float("nan")}])
    assert path.read_bytes() == before
    assert [record["kind"] for record in read_results(tmp_path)] == ["a", "b", "d"]


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no results"):
        read_results(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="not the results of a study, since a line has no kind"):
        read_results(tmp_path)
