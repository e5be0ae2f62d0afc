"""Runs an experiment: several processes, threads divided, one file of results, resumable."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tsloss_fast._files import remove_temporaries
from tsloss_fast.compare.design import Design
from tsloss_fast.compare.plan import Plan
from tsloss_fast.compare.processes import Worker, start_workers, stop_workers, worker_died
from tsloss_fast.compare.results import ResultsFile, read_results
from tsloss_fast.compare.trial import trial_key
from tsloss_fast.doctor import machine
from tsloss_fast.tuning.run_folder import RunFolderError, exclusive

__all__ = ["ExperimentInterrupted", "State", "divide_threads", "run_experiment"]

STATES = "underway"


class ExperimentInterrupted(KeyboardInterrupt):
    """An interrupt, after every cohort wrote its state; the message says how to go on."""


@dataclass
class State:
    """What a view shows: the plan, and what each process is doing."""

    plan: Plan
    began: float = field(default_factory=time.monotonic)
    underway: dict[int, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """The job's label and its last message, by process."""
    new_runs: int = 0


View = Callable[[State], None]


def divide_threads(processes: int, threads: int | None = None) -> int:
    """Threads of each of some processes: as many threads as given, or the cores of this process
    divided."""
    if threads is not None:
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // processes)


def run_experiment(
    design: Design,
    out: Path,
    *,
    processes: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    view: View = lambda state: None,
    checkpoint_every: int = 10,
) -> Path:
    """Run what of a design is not there yet; returns the results file, `out`/NAME.jsonl.

    Runs of other designs in the same folder count, where they are the same runs. A design that
    differs from the file's last one is written down after it, so that a change is seen.

    Args:
        out: the folder; made if it is missing, and held against other processes.
        processes: side by side, each with its own copy of the model.
        threads: of each process; by default the cores divided.
        device: "cpu", "cuda" (processes take the devices in turn) or one such as "cuda:1".
        view: called whenever something changed.
        checkpoint_every: steps after which a cohort writes its state; what a kill costs at most.

    Raises:
        ExperimentInterrupted: after an interrupt. Nothing that was computed is lost but the steps
            since each cohort's last state.
        RuntimeError: a process died or a training failed; what was finished is in the file.
        RunFolderError: another process holds the folder, or a part of it is a symbolic link.
        ValueError: the results are damaged.
    """
    with ExitStack() as stack:
        stack.enter_context(exclusive(out))
        states = out / STATES / design.name
        for folder in (states.parent, states):
            # States of old jobs are removed below.
            if folder.is_symlink():
                raise RunFolderError(
                    f"{folder} is a symbolic link: remove it, or use another folder"
                )
        states.mkdir(parents=True, exist_ok=True)
        remove_temporaries(states)
        results = ResultsFile(out / f"{design.name}.jsonl")
        stack.callback(results.close)
        plan = Plan.of_records(design, read_results(out))
        _declare(results, design)
        _choose(results, plan)
        jobs = {f"{job.identity}.pt" for job in plan.ready()}
        for left in states.glob("*.pt"):
            # Of a job that is done, or cut in another way now.
            if left.name not in jobs:
                left.unlink()
        if not jobs:
            return results.path
        share = divide_threads(processes, threads)
        results.append([_session(processes, share, device)])
        state = State(plan)
        workers = stack.enter_context(start_workers(processes, share, device, checkpoint_every))
        try:
            _serve(workers, state, results, states, view)
        except KeyboardInterrupt:
            errors = stop_workers(workers, results)
            lost = f" (but: {'; '.join(errors)})" if errors else ""
            raise ExperimentInterrupted(
                f"interrupted; {results.path} holds what was finished, and the same command goes "
                f"on{lost}"
            ) from None
        return results.path


def _serve(
    workers: dict[int, Worker], state: State, results: ResultsFile, states: Path, view: View
) -> None:
    """Hand out jobs and take results until nothing is left to do."""
    while True:
        for worker in workers.values():
            if worker.job is None:
                _hand_out(worker, workers, state, states)
        view(state)
        busy = [worker for worker in workers.values() if worker.job is not None]
        if not busy:
            return
        signals = {worker.connection: worker for worker in busy}
        ends = {worker.process.sentinel: worker for worker in workers.values()}
        for ready in wait([*signals, *ends]):
            worker = signals.get(ready) or ends[ready]  # type: ignore[call-overload]
            if worker.job is None or not worker.connection.poll():
                raise worker_died(worker, results)
            _take(worker, state, results, states)


def _hand_out(worker: Worker, workers: dict[int, Worker], state: State, states: Path) -> None:
    """Give a worker the first job none of whose trials is underway."""
    underway = {
        trial_key(trial)
        for other in workers.values()
        if other.job is not None
        for trial in other.job.trials
    }
    for job in state.plan.ready():
        if not underway.intersection(map(trial_key, job.trials)):
            worker.job = job
            with suppress(BrokenPipeError, ConnectionResetError):  # seen as its end
                worker.connection.send((list(job.trials), str(states / f"{job.identity}.pt")))
            state.underway[worker.process.pid] = (job.label, {})
            return


def _take(worker: Worker, state: State, results: ResultsFile, states: Path) -> None:
    """Receive what a worker says of its job."""
    assert worker.job is not None
    label = worker.job.label
    try:
        kind, content = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        raise worker_died(worker, results) from None
    if kind == "progress":
        state.underway[worker.process.pid] = (label, content)
    elif kind == "done":
        results.append(content)
        for record in content:
            state.plan.runs[record["key"]] = record
        state.new_runs += len(content)
        (states / f"{worker.job.identity}.pt").unlink(missing_ok=True)
        del state.underway[worker.process.pid]
        worker.job = None
        _choose(results, state.plan)
    else:
        text, trace = content
        raise RuntimeError(
            f"{label}: {text}. What was finished is in {results.path}"
        ) from RuntimeError(trace)


def _declare(results: ResultsFile, design: Design) -> None:
    """Write the design before any of its runs, and again whenever it is another one."""
    written = design.to_mapping()
    declared = [r["design"] for r in results.records if r["kind"] == "experiment"]
    if not declared or declared[-1] != written:
        results.append(
            [
                {
                    "kind": "experiment",
                    "name": design.name,
                    "date": _now(),
                    "design": written,
                }
            ]
        )


def _choose(results: ResultsFile, plan: Plan) -> None:
    """Write down what was chosen, once."""
    there = [record for record in results.records if record["kind"] == "choice"]
    results.append([choice for choice in plan.choices() if choice not in there])


def _session(processes: int, threads: int, device: str) -> dict[str, Any]:
    versions = {
        name: importlib.metadata.version(name) for name in ("transformers", "peft", "safetensors")
    }
    wanted = (
        "processor",
        "cores",
        "instruction set of torch",
        "instruction set of tsloss_fast",
        "system",
        "python",
        "tsloss-fast",
        "torch",
        "numpy",
    )
    facts = machine()
    return {
        "kind": "session",
        "date": _now(),
        "processes": processes,
        "threads": threads,
        "device": device,
        "machine": {name: facts[name] for name in wanted} | versions,
    }


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
