"""What it costs to watch: a record of topology against the training step that it watches.

Run as ``python -m tsloss_fast.benchmarks.tracking``. Each row tunes a soft prompt of SmolLM2-135M
(8 Boolean expressions a step) with a tracker that records at every step; beside it stand the bars
alone, as a user would compute them with GUDHI in the same place.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsloss_fast._terminal import table_head, table_row
from tsloss_fast.analysis.record.h1 import h1_diagram
from tsloss_fast.analysis.record.tracker import TopologyTracker

from .report import duration
from .suite import print_and_write

_H1_EVERY = 10
_GOAL = 0.01


class _Training:
    """A soft prompt of SmolLM2 and its optimizer."""

    def __init__(self, tokens: int) -> None:
        from tsloss_fast.tuning import add_soft_prompt, initial_prompt, load_model, load_task
        from tsloss_fast.tuning.answers import can_share_prompt, encode_items

        base, tokenizer = load_model("smollm2")
        task = load_task("boolean", train_size=64, test_size=8, validation_size=0, seed=0)
        self.items = encode_items(task.train, tokenizer)
        self.model = add_soft_prompt(base, initial_prompt(base, tokenizer, tokens)).eval()
        self.share = can_share_prompt(self.model, self.items)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.03)

    def step(self, number: int) -> None:
        from tsloss_fast.tuning.answers import answer_logits

        batch = [self.items[(8 * number + k) % len(self.items)] for k in range(8)]
        loss = answer_logits(self.model, batch, share_prompt=self.share).cross_entropy()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def points(self) -> Tensor:
        from tsloss_fast.tuning import prompt_clouds

        return prompt_clouds(self.model).detach()


def _gudhi(points: np.ndarray) -> None:
    """H0 of a cloud as GUDHI's tutorials have it."""
    import gudhi

    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=1)
    tree.persistence()


def measure(name: str, tokens: int, steps: int, clouds: int | None) -> dict[str, Any]:
    """Times of a step, a record, and GUDHI's H0 of the same points, in seconds.

    With `clouds`, what is recorded are that many clouds of as many tokens in 192 dimensions, as in
    prefix tuning of SmolLM2 (keys and values of 30 layers), beside the same training step.
    """
    training = _Training(tokens)
    generator = torch.Generator().manual_seed(0)
    batch = None if clouds is None else torch.randn(clouds, tokens, 192, generator=generator)
    times: dict[str, list[float]] = {"step": [], "record": [], "gudhi": []}
    with tempfile.TemporaryDirectory() as folder:
        tracker = TopologyTracker(folder, h1_every=_H1_EVERY)
        with tracker:
            for number in range(steps):
                start = time.perf_counter()
                training.step(number)
                middle = time.perf_counter()
                if batch is None:
                    points = training.points()
                else:
                    batch += 0.01 * torch.randn(batch.shape, generator=generator)
                    points = batch
                between = time.perf_counter()
                tracker.record(number, points)
                end = time.perf_counter()
                times["step"].append(middle - start)
                times["record"].append(end - between)
                start = time.perf_counter()
                for cloud in points:
                    _gudhi(cloud.double().numpy())
                times["gudhi"].append(time.perf_counter() - start)
        size = tracker.path.stat().st_size
        start = time.thread_time()
        for cloud in points:
            h1_diagram(cloud.numpy())
        h1 = time.thread_time() - start
    # The first step pays for what is made once.
    result: dict[str, Any] = {key: statistics.median(each[1:]) for key, each in times.items()}
    result |= {"name": name, "h1": h1, "bytes": size / steps, "worst": max(times["record"][1:])}
    result["share"] = sum(times["record"][1:]) / sum(times["step"][1:])
    return result


def _lines(options: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(options.threads)
    yield "# What it costs to watch a prompt\n"
    yield (
        f"SmolLM2-135M, 8 items a step, {options.steps} steps, torch {torch.__version__} with "
        f"{options.threads} threads; a record at every step, with its points and H1 (in a thread) "
        f"at every {_H1_EVERY}th. Medians; the share is that of the sums, without the first step.\n"
    )
    header = ["what is recorded", "step", "record", "slowest record", "share of a step"]
    header += ["GUDHI, H0 alone", "H1 (thread)", "bytes a record"]
    yield from table_head(header)
    worst = 0.0
    for tokens, clouds in ((10, None), (20, None), (100, None), (10, 60)):
        name = (
            f"a prompt of {tokens} × 576"
            if clouds is None
            else f"{clouds} prefixes of {tokens} × 192"
        )
        row = measure(name, tokens, options.steps, clouds)
        worst = max(worst, row["share"] if clouds is None else 0.0)
        cells = [row["name"], *(duration(row[key]) for key in ("step", "record", "worst"))]
        cells += [f"{100 * row['share']:.2f} %", duration(row["gudhi"]), duration(row["h1"])]
        yield table_row([*cells, f"{row['bytes']:,.0f}"])
    verdict = "met" if worst <= _GOAL else "missed"
    share = f"largest share {100 * worst:.2f} %"
    yield f"\nGoal, at most 1 % of a step for a prompt: {verdict} ({share})."


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsloss_fast.benchmarks.tracking",
        description="Measure what a record of topology costs beside a training step of SmolLM2.",
    )
    parser.add_argument("--steps", type=int, default=21, help="training steps of each row (21)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    options = parser.parse_args(argv)
    if options.steps < 3:
        parser.error(f"expected at least 3 steps, got {options.steps}")
    print_and_write(parser, _lines(options), options.output, "tracking.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
