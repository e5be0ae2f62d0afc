"""Experiments: what is written, and that no kill, interrupt or full disk loses or changes a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("rich", reason=NEEDS)
pytest.importorskip("scipy", reason=NEEDS)

from rich.console import Console

from tsloss_fast import cli
from tsloss_fast.compare import scheduler, view
from tsloss_fast.compare.design import Design, load_design
from tsloss_fast.compare.plan import Plan
from tsloss_fast.compare.processes import Worker
from tsloss_fast.compare.results import ResultsFile, read_results
from tsloss_fast.compare.scheduler import State, divide_threads, run_experiment
from tsloss_fast.compare.trial import trial_key

STEPS = 12


def write_design(folder: Path, model: Path, **changes: Any) -> Path:
    design = {
        "name": "small",
        "models": [str(model)],
        "methods": ["ce", "tsloss"],
        "seeds": [0, 1],
        "virtual_tokens": [6],
        "cohort": 2,
        "tasks": [
            {
                "task": "boolean",
                "steps": STEPS,
                "eval_every": 4,
                "train_size": 16,
                "validation_size": 8,
                "test_size": 12,
                "curve_size": 6,
            }
        ],
        "search": {"trials": 2, "seeds": [9]},
        **changes,
    }
    path = folder / "small.yaml"
    path.write_text(json.dumps(design), encoding="utf-8")  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that nobody disturbed, run by two processes."""
    folder = tmp_path_factory.mktemp("finished")
    design = load_design(str(write_design(folder, tiny_folder)))
    run_experiment(design, folder / "out", processes=2, threads=1)
    return folder / "out"


def content(folder: Path) -> dict[str, Any]:
    """The runs by key, without what depends on the clock and on who shared a forward pass."""
    return {
        line["key"]: {k: v for k, v in line.items() if k not in ("seconds", "cohort")}
        for line in read_results(folder)
        if line["kind"] == "run"
    }


def command(design: Path, out: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "tsloss_fast", "compare", str(design), "--out", str(out)]
    return [*start, "--threads", "1", *more]


def heed_interrupts() -> None:
    """In a new process: what a shell starts in the background inherits that they are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(what: Callable[[], bool], process: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, f"ended with {process.returncode} before it was due"
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that train for a scheduler."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (entry / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(entry.name))
    return found


def test_the_results_tell_the_whole_experiment(finished: Path, tiny_folder: Path) -> None:
    lines = read_results(finished)
    assert [line["kind"] for line in lines[:2]] == ["experiment", "session"]
    design = Design.from_mapping(lines[0]["design"])
    assert design.models == (str(tiny_folder),)
    assert lines[1]["processes"] == 2
    assert lines[1]["threads"] == 1
    assert lines[1]["machine"]["torch"]
    plan = Plan.of_records(design, lines)
    assert plan.progress() == (8, 8)
    assert list(plan.ready()) == []
    choices = [line for line in lines if line["kind"] == "choice"]
    assert [choice["method"] for choice in choices] == ["ce", "tsloss"]
    runs = [line for line in lines if line["kind"] == "run"]
    for run in runs:
        assert run["key"] == trial_key(run["trial"])
        assert run["split"] == {"search": "validation", "final": "test"}[run["trial"]["stage"]]
    for choice in choices:
        searched = [r for r in runs if r["trial"]["stage"] == "search"]
        mine = [r for r in searched if r["trial"]["method"] == choice["method"]]
        best = min(mine, key=lambda run: run["end"]["ce"])["trial"]
        assert (choice["lr"], choice["weight"]) == (best["lr"], best["weight"])
        for run in runs:
            if run["trial"]["stage"] == "final" and run["trial"]["method"] == choice["method"]:
                assert (run["trial"]["lr"], run["trial"]["weight"]) == (best["lr"], best["weight"])
    # Paired: the methods of a seed saw the same items from the same start.
    by_seed: dict[int, list[Any]] = {}
    for run in runs:
        if run["trial"]["stage"] == "final":
            by_seed.setdefault(run["trial"]["seed"], []).append(run)
    for pair in by_seed.values():
        assert len(pair) == 2
        assert pair[0]["task_digest"] == pair[1]["task_digest"]
        assert pair[0]["curve"][0] == pair[1]["curve"][0]
    assert by_seed[0][0]["task_digest"] != by_seed[1][0]["task_digest"]
    assert list((finished / "underway" / "small").iterdir()) == []


def test_what_is_finished_is_not_run_again(
    finished: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*args: Any) -> Any:
        raise AssertionError("a process was started")

    monkeypatch.setattr(scheduler, "start_workers", no_process)
    design = load_design(str(write_design(tmp_path, tiny_folder)))
    before = (finished / "small.jsonl").read_bytes()
    run_experiment(design, finished)
    assert (finished / "small.jsonl").read_bytes() == before
    # Another design whose runs are among these, in a file of its own.
    other = load_design(str(write_design(tmp_path, tiny_folder, name="part", seeds=[1])))
    path = run_experiment(other, finished)
    try:
        kinds = [line["kind"] for line in read_results(path)]
        assert kinds == ["experiment", "choice", "choice"]
    finally:
        path.unlink()
    with pytest.raises(AssertionError, match="a process was started"):
        run_experiment(load_design(str(write_design(tmp_path, tiny_folder, seeds=[2]))), finished)
    after = read_results(finished / "small.jsonl")
    # The changed design stands behind the first one, which is still there.
    assert [line["design"]["seeds"] for line in after if line["kind"] == "experiment"] == [
        [0, 1],
        [2],
    ]
    (finished / "small.jsonl").write_bytes(before)


@pytest.mark.slow
def test_killed_and_interrupted_experiments_end_as_one_that_was_not(
    finished: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    design, out = write_design(tmp_path, tiny_folder), tmp_path / "out"
    results = out / "small.jsonl"

    def runs() -> int:
        return len(content(out)) if results.exists() else 0

    # Killed without warning as soon as something is there.
    with subprocess.Popen(command(design, out)) as process:
        wait_for(lambda: runs() > 0, process)
        (worker,) = children(process.pid)
        process.kill()
    end = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists(), "the worker outlived its scheduler"
    half = results.read_bytes() + b'{"kind":"run","key":"'
    results.write_bytes(half)
    first = runs()

    # Interrupted, while a cohort is underway.
    with subprocess.Popen(
        command(design, out), stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    ) as process:
        wait_for(lambda: runs() > first, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors

    # One of the processes dies.
    if runs() < 8:
        with subprocess.Popen(command(design, out), stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: bool(children(process.pid)), process)
            os.kill(children(process.pid)[0], signal.SIGKILL)
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        assert "a process ended with signal 9 while it trained boolean" in errors
        assert "the same command goes on" in errors

    subprocess.run(command(design, out), check=True, timeout=300)
    assert content(out) == content(finished)
    assert (out / "small.md").exists()


def test_a_training_that_fails_is_an_error_in_words(tmp_path: Path) -> None:
    path = write_design(tmp_path, tmp_path / "no such model")
    with pytest.raises(RuntimeError, match=r"boolean.*ModelNotAvailableError: cannot load"):
        run_experiment(load_design(str(path)), tmp_path / "out", threads=1)


def test_a_process_that_dies_while_it_waits_is_an_error(finished: Path, tmp_path: Path) -> None:
    """Of two processes and one job: the idle one ends, the busy one would take for ever."""
    design = Design.from_mapping(read_results(finished)[0]["design"])
    runs = [line for line in read_results(finished) if line["kind"] == "run"]
    plan = Plan.of_records(design, runs[:-1])
    assert len(list(plan.ready())) == 1
    context = multiprocessing.get_context("fork")
    ours, _theirs = context.Pipe()
    silent, _other = context.Pipe()
    busy = context.Process(target=time.sleep, args=(60,), daemon=True)
    dead = context.Process(target=os._exit, args=(3,), daemon=True)
    busy.start()
    dead.start()
    workers = {0: Worker(busy, ours), 1: Worker(dead, silent)}
    results = ResultsFile(tmp_path / "r.jsonl")
    try:
        with pytest.raises(RuntimeError, match=r"ended with exit code 3 while it waited.*goes on"):
            scheduler._serve(workers, State(plan), results, tmp_path, lambda state: None)
    finally:
        busy.kill()
        results.close()


def test_threads_are_divided() -> None:
    cores = len(os.sched_getaffinity(0))
    assert divide_threads(1) == cores
    assert divide_threads(cores) == 1
    assert divide_threads(100 * cores) == 1
    assert divide_threads(2, threads=7) == 7


def test_the_live_table_shows_what_is_done_and_underway(finished: Path) -> None:
    lines = read_results(finished)
    design = Design.from_mapping(lines[0]["design"])
    runs = [line for line in lines if line["kind"] == "run"]
    last = [r for r in runs if r["trial"]["method"] == "tsloss" and r["trial"]["seed"] == 1]
    state = State(Plan.of_records(design, [run for run in runs if run not in last]))
    state.underway = {1: ("boolean: seed 1", {"step": 4, "steps": STEPS})}
    state.new_runs = 3
    console = Console(width=120, record=True, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(view._screen(design, state))
    text = console.export_text()
    assert "small: 7 of 8 runs, about" in text
    assert "boolean: seed 1: step 4 of 12" in text
    ends = [
        r["end"]["accuracy"]
        for r in runs
        if r["trial"]["method"] == "ce" and r["trial"]["stage"] == "final"
    ]
    assert f"{sum(ends) / 2:.3f} (2/2)" in text
    assert "(1/2)" in text


def test_tables_and_figure_are_made_from_what_is_there(
    finished: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    design = write_design(tmp_path, tiny_folder)
    assert cli.main(["compare", str(design), "--out", str(finished), "--tables"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == (finished / "small.md").read_text(encoding="utf-8").strip()
    assert "| tsloss | final accuracy | 2 |" in printed
    assert "4 runs in 1 group, and 4 runs of the search" in printed
    assert (finished / "small.png").read_bytes().startswith(b"\x89PNG")
