"""The file of results: only whole lines are added to it, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def test_the_half_line_of_a_full_disk_is_said_and_cut_before_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A disk on which only a part fits."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def write(self, data: bytes) -> int:
            return int(self.inner.write(data[: len(data) // 2]))

    file = ResultsFile(tmp_path / "r.jsonl")
    file.append([{"kind": "a"}])
    monkeypatch.setattr(file, "_file", Full(file._file))
    with pytest.raises(OSError, match=r"r\.jsonl: only \d+ of \d+ bytes fit"):
        file.append([{"kind": "b"}])
    file = ResultsFile(tmp_path / "r.jsonl")
    file.append([{"kind": "c"}])
    file.close()
    assert (tmp_path / "r.jsonl").read_text() == '{"kind":"a"}\n{"kind":"c"}\n'


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no results"):
        read_results(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="line 1: not a line of results"):
        read_results(tmp_path)
