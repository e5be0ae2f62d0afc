"""Training: the runs of a cohort side by side, and the cohorts of a study in several processes."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from tsloss_fast.benchmarks.study import packed
from tsloss_fast.benchmarks.study.design import Design, Trial, trial_key
from tsloss_fast.benchmarks.study.methods import SCHEDULES, make_term
from tsloss_fast.benchmarks.study.results import ResultsFile, read_results
from tsloss_fast.benchmarks.study.tasks import load_task

from tsloss_fast import barcode, h0_persistence
from tsloss_fast._files import exclusive
from tsloss_fast._terminal import one_line
from tsloss_fast.doctor import machine
from tsloss_fast.tuning.answers import Choices, EncodedItem, encode_items
from tsloss_fast.tuning.models import load_model
from tsloss_fast.tuning.prompts import initial_prompt

__all__ = ["batch_of", "run_study", "six_digits", "train"]

# Tokens of a row of an evaluation: attention looks at all pairs of a row.
_ROW = 400
# The most nats of a token, also where its probability is 0 or not a number: JSON has no infinity.
_LOST = 100.0


@dataclass
class _Run:
    trial: Trial
    prompt: Tensor
    optimizer: torch.optim.Optimizer
    term: Callable[[Tensor], Tensor]
    curve: list[dict[str, float]] = field(default_factory=list)
    train_ce: list[float] = field(default_factory=list)
    step_seconds: float = 0.0
    term_seconds: float = 0.0
    diverged: int | None = None
    ended: bool = False


def train(trials: Sequence[Trial], base: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Train the runs of some trials of one group and seed; return their records.

    The runs read the same items in the same order. Each has its own start, parameter, loss and
    AdamW, so that it is the run that it would be alone, up to the rounding of the forward pass.
    """
    common, steps = trials[0], trials[0]["steps"]
    sizes = ("task", "train_size", "test_size", "seed", "difficulty")
    task = load_task(*(common[name] for name in sizes))
    items, test = (encode_items(split, tokenizer) for split in (task.train, task.test))
    choices = Choices(item.answer for item in (*items, *test))
    runs = [_begin(trial, base, tokenizer) for trial in trials]
    packed.check_packing(base, runs[0].prompt.detach(), items)
    nothing = base.get_input_embeddings().weight[None, :0]
    (bare,) = _evaluate(base, nothing, test, choices)
    reference = {f"zero_shot_{name}": rate for name, rate in _rates(bare).items()}
    reference["majority_rate"] = task.majority_rate
    for step in range(steps + 1):
        active = [run for run in runs if not run.ended]
        if step and active:
            batch = batch_of(items, step, common["seed"], common["batch_size"])
            left = 1 - (step - 1) / steps if common["lr_schedule"] == "linear" else 1.0
            _advance(active, base, batch, step / steps, left)
        if step % common["eval_every"] == 0 or step == steps:
            split = test if step == steps else test[: common["curve_size"]]
            prompts = torch.stack([run.prompt.detach() for run in runs])
            scores = _evaluate(base, prompts, split, choices)
            for run, prompt, score in zip(runs, prompts, scores, strict=True):
                point = _rates(score[:, : common["curve_size"]]) | _topology(prompt)
                run.curve.append({"step": step, **point})
    records = []
    for run, score in zip(runs, scores, strict=True):
        record: Trial = {
            "kind": "run",
            "key": trial_key(run.trial),
            "trial": run.trial,
            "split": "test",
        }
        record |= {"reference": reference, "curve": run.curve, "train_ce": run.train_ce}
        record |= {"end": {"items": len(test), **_rates(score)}, "diverged": run.diverged}
        taken = max(1, len(run.train_ce))
        seconds_of = {"step": run.step_seconds, "term": run.term_seconds}
        record["seconds"] = {name: six_digits(each / taken) for name, each in seconds_of.items()}
        record["cohort"] = len(runs)
        records.append(record | {"forward": "packed", "task_digest": task.digest[:16]})
    return records


def _begin(trial: Trial, base: Any, tokenizer: Any) -> _Run:
    begin = [trial[name] for name in ("virtual_tokens", "init", "init_text", "seed", "jitter")]
    prompt = initial_prompt(base, tokenizer, *begin).to(base.device).requires_grad_()
    optimizer = torch.optim.AdamW([prompt], trial["lr"], weight_decay=trial["weight_decay"])
    return _Run(trial, prompt, optimizer, make_term(trial["settings"], prompt))


def batch_of(
    items: Sequence[EncodedItem], step: int, seed: int, size: int
) -> Sequence[EncodedItem]:
    """Return the items of a step in 1, 2, …; every epoch has an order of its own."""
    epoch, index = divmod(step - 1, -(-len(items) // size))
    order = np.random.default_rng([seed, epoch]).permutation(len(items))
    return [items[i] for i in order[index * size : (index + 1) * size]]


def _advance(
    runs: Sequence[_Run], base: Any, batch: Sequence[EncodedItem], now: float, left: float
) -> None:
    """Make a step of every run at a time in (0, 1], with a share of the learning rates."""
    prompts = [run.prompt for run in runs]
    began = time.perf_counter()
    losses = packed.packed_answers(base, torch.stack(prompts), batch).token_losses().mean(1)
    gradients = torch.autograd.grad(losses.sum(), prompts)
    shared = (time.perf_counter() - began) / len(runs)
    for run, loss, gradient in zip(runs, losses.tolist(), gradients, strict=True):
        began = time.perf_counter()
        weight = run.trial["weight"] * SCHEDULES[run.trial["settings"]["schedule"]](now)
        if weight:
            (slope,) = torch.autograd.grad(weight * run.term(run.prompt), run.prompt)
            gradient = gradient + slope
            run.term_seconds += time.perf_counter() - began
        # A run that diverged stays as it was, and the others go on.
        if not (math.isfinite(loss) and bool(gradient.isfinite().all())):
            run.diverged, run.ended = len(run.train_ce) + 1, True
            continue
        run.train_ce.append(six_digits(loss))
        if run.train_ce[-1] <= (run.trial["stop_train_ce"] or -math.inf):
            run.ended = True
        else:
            run.prompt.grad = gradient
            run.optimizer.param_groups[0]["lr"] = left * run.trial["lr"]
            run.optimizer.step()
        run.step_seconds += shared + time.perf_counter() - began


@torch.no_grad()
def _evaluate(base: Any, prompts: Tensor, items: Sequence[EncodedItem], choices: Choices) -> Tensor:
    """Return for each of R prompts and B items (R, 4, B): whether the answer is right, and right
    among the answers of the task; its nats; its tokens."""
    batches: list[list[EncodedItem]] = []
    room = 0
    for item in items:
        if len(item.inputs) > room:
            batches.append([])
            room = _ROW
        batches[-1].append(item)
        room -= len(item.inputs)
    tables = []
    for batch in batches:
        answers = packed.packed_answers(base, prompts, batch)
        table = torch.zeros(len(prompts), 4, len(batch), dtype=torch.float64)
        misses = (answers.logits.argmax(-1) != answers.targets).double()
        nats = answers.token_losses().double().nan_to_num(_LOST, _LOST).clamp(max=_LOST)
        sums = torch.stack((misses, misses, nats, torch.ones_like(nats)), 1).cpu()
        table.index_add_(2, answers.owner.cpu(), sums)
        table[:, 0] = table[:, 0] == 0
        table[:, 1] = choices.chosen(answers.logits, batch)
        tables.append(table)
    return torch.cat(tables, 2)


def _rates(score: Tensor) -> dict[str, float]:
    right, restricted, nats, tokens = score.sum(1).tolist()
    rates = {"accuracy": right, "restricted_accuracy": restricted, "ce": nats}
    wholes = (score.shape[1], score.shape[1], tokens)
    return {k: six_digits(v / n) for (k, v), n in zip(rates.items(), wholes, strict=True)}


def _topology(prompt: Tensor) -> dict[str, float]:
    deaths = h0_persistence(prompt[None]).deaths
    measures = (barcode.mean_death, barcode.coefficient_of_variation, barcode.redundancy)
    return {each.__name__: six_digits(float(each(deaths).mean())) for each in measures}


def six_digits(value: float) -> float:
    """Round: further digits are noise, and each is a byte of the results."""
    return float(f"{value:.6g}")


def run_study(
    design: Design, out: Path, processes: int = 1, threads: int = 1, device: str = "cpu"
) -> int:
    """Run what is missing of a design; return how many cohorts failed, which were reported.

    Runs of other designs in the folder count where they are the same. The results of a cohort are
    appended to `out`/NAME.jsonl as it ends, and a cohort that was stopped begins again.
    """
    for plan, seed in itertools.product(design.tasks, design.seeds):
        load_task(plan.task, plan.train_size, plan.test_size, seed, plan.difficulty)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    file = out / f"{design.name}.jsonl"
    with exclusive(out, passing=True), contextlib.closing(ResultsFile(file)) as results:
        line = {"kind": "experiment", "name": design.name, "design": design.to_mapping()}
        declared = [each["design"] for each in results.records if each["kind"] == "experiment"]
        if declared[-1:] != [line["design"]]:
            results.append([line | {"date": now}])
        done = {line["key"] for line in read_results(out) if line["kind"] == "run"}
        cohorts = list(design.cohorts(done))
        if not cohorts:
            return 0
        facts = {"processes": processes, "threads": threads, "device": device}
        versions = {name: importlib.metadata.version(name) for name in ("transformers", "peft")}
        facts["machine"] = {name: str(value) for name, value in machine().items()} | versions
        results.append([{"kind": "session", "date": now, **facts}])
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(processes, context, _initialize, (threads,))
        goes_on = f"{file} holds what was finished, and the same command goes on"
        try:
            return _collect({pool.submit(_work, each, device): each for each in cohorts}, results)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; {goes_on}") from None
        except BrokenProcessPool:
            what = "if memory ran out, use fewer processes or a smaller cohort"
            raise RuntimeError(f"a process died. {goes_on}; {what}") from None
        finally:
            # After an error, cohorts that are still trained would keep the command waiting.
            for process in multiprocessing.active_children():
                process.terminate()
            pool.shutdown()


def _collect(futures: dict[Future[Any], list[Trial]], results: ResultsFile) -> int:
    """Append the results of cohorts as they end; return how many of them failed."""
    failures = 0
    with tqdm(total=sum(map(len, futures.values())), desc=results.path.stem) as bar:
        for future in as_completed(futures):
            cohort = futures[future]
            try:
                records = future.result()
            except ValueError as error:
                failures += 1
                arms = ", ".join(f"{trial['method']} at {trial['lr']:g}" for trial in cohort)
                what = f"{cohort[0]['task']}, {cohort[0]['model']}, seed {cohort[0]['seed']}"
                bar.write(f"failed: {what} ({arms}): {error}", file=sys.stderr)
            else:
                results.append(records)
                bar.update(len(records))
    return failures


def _initialize(threads: int) -> None:
    # A terminal sends an interrupt to the whole group, and the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    # A process whose parent was killed must not go on beside the parent's successor.
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)
def _model(name: str, device: str) -> tuple[Any, Any]:
    base, tokenizer = load_model(name)
    return base.to(device).eval().requires_grad_(False), tokenizer


def _work(cohort: list[Trial], device: str) -> list[dict[str, Any]]:
    try:
        return train(cohort, *_model(cohort[0]["model"], device))
    except Exception as error:
        # Other errors may hold what cannot be sent to the parent.
        raise ValueError(one_line(f"{type(error).__name__}: {error}")) from error
