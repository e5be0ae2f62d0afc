"""The paper's protocol whole, in minutes on one GPU: 10 training items, batches of 8, 300 epochs.

48 runs are trained as one. Their prompts are one parameter (48, N, D), and AdamW is elementwise, so
that runs do not mix. A step is one forward pass over all sequences, each behind the prompt of its
run, and one call of the loss for each arm. An epoch is a batch of 8 items and one of 2, in another
order each time.

The runs are 24 pairs of two arms rather than 16 seeds of three arms, as more pairs detect smaller
differences: the page of evidence has a table of what n seeds can tell.
Unlike the paper's, the learning rate is 0.01 (its 5e-5 moves no coordinate by more than about 0.03
in 600 steps). The prompt is in float32, without weight decay.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tsloss_fast.benchmarks.study import run
from tsloss_fast.benchmarks.study.methods import METHODS, Method, make_term
from tsloss_fast.benchmarks.study.packed import check_padding, means, padded_scores
from tsloss_fast.benchmarks.study.protocol_page import write_results
from tsloss_fast.benchmarks.study.tasks import load_task

from tsloss_fast import barcode, h0_persistence
from tsloss_fast._files import check_writable_folder
from tsloss_fast._terminal import CommandParser, say
from tsloss_fast.doctor import report
from tsloss_fast.tuning.answers import EncodedItem, encode_items
from tsloss_fast.tuning.config import check_device
from tsloss_fast.tuning.models import load_model
from tsloss_fast.tuning.prompts import initial_prompt

Batches = Sequence[Sequence[EncodedItem]]
# A pass over the test items takes at most this share of a training pass over as many items.
_TEST_SHARE = 0.6


@dataclass(frozen=True)
class Protocol:
    """Settings of the runs. The first arm is the baseline, and a seed has items of its own."""

    arms: tuple[str, ...] = ("ce", "tsloss")
    seeds: tuple[int, ...] = tuple(range(24))
    task: str = "boolean"
    train_size: int = 10
    test_size: int = 200
    batch_size: int = 8
    epochs: int = 300
    virtual_tokens: int = 40
    init_text: str = "x"
    lr: float = 0.01


MINIATURE = Protocol(seeds=(0, 1), test_size=8, epochs=2, virtual_tokens=6)


def score(base: Any, prompts: Tensor, batches: Batches, chunk: int) -> Tensor:
    """Return `padded_scores`, computed for `chunk` runs at a time. Unless gradients are disabled,
    those of the runs' cross-entropies are added to `prompts.grad`."""
    found = []
    for begin in range(0, len(prompts), chunk):
        part = slice(begin, begin + chunk)
        scores = padded_scores(base, prompts[part], batches[part])
        if torch.is_grad_enabled():
            means(scores)[0].sum().backward()
        found.append(scores.detach())
    return torch.cat(found)


def epochs_that_fit(protocol: Protocol, times: Sequence[float], deadline: float) -> int:
    """Return how many epochs, with those that were made, leave time for the test items. `times` are
    the beginning and the ends of the epochs."""
    each = statistics.median(b - a for a, b in itertools.pairwise(times))
    left = deadline - times[-1] - _TEST_SHARE * protocol.test_size / protocol.train_size * each
    return len(times) - 1 + max(0, int(min(left / each, protocol.epochs - len(times) + 1)))


def train(
    protocol: Protocol,
    base: Any,
    tokenizer: Any,
    deadline: float = math.inf,
    chunk: int = 48,
    matmul: str = "highest",
    clock: Callable[[], float] = time.monotonic,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train all runs for as many epochs as fit before the deadline, at least three; return the
    facts of the training and a record of each run. All have the same number of epochs."""
    arms, size = protocol.arms, protocol.batch_size
    sizes = protocol.train_size, protocol.test_size
    tasks = [load_task(protocol.task, *sizes, seed) for seed in protocol.seeds]
    items = [encode_items(task.train, tokenizer) for task in tasks]
    test = [encode_items(task.test, tokenizer) for task in tasks] * len(arms)
    start = initial_prompt(base, tokenizer, protocol.virtual_tokens, "text", protocol.init_text)
    start = start.to(base.device)
    check_padding(base, start, items[0])
    # After the check, whose bound is meant for float32.
    torch.set_float32_matmul_precision(matmul)
    methods = [Method(name, **dict[str, Any](METHODS[name])) for name in arms]
    terms = [make_term(method.settings(), start) for method in methods]
    prompts = start.repeat(len(test), 1, 1).requires_grad_()
    gradient = prompts.grad = torch.zeros_like(prompts)
    optimizer = torch.optim.AdamW([prompts], protocol.lr, weight_decay=0.0, fused=True)
    sound = torch.ones(len(prompts), 1, 1, dtype=torch.bool, device=base.device)
    steps = range(-(-protocol.train_size // size))
    curves, times, fit = list[Tensor](), [clock()], protocol.epochs
    while len(curves) < fit:
        scores = []
        for step in (1 + len(curves) * len(steps) + each for each in steps):
            pairs = zip(items, protocol.seeds, strict=True)
            batches = [run.batch_of(own, step, seed, size) for own, seed in pairs] * len(arms)
            gradient.zero_()
            scores.append(score(base, prompts, batches, chunk))
            for method, term, clouds in zip(methods, terms, prompts.chunk(len(arms)), strict=True):
                if method.weight:
                    # A term is the mean over its clouds, one of each run.
                    (len(clouds) * method.weight * term(clouds)).backward()
            # A run whose gradient was not finite has no result, and harms no other run.
            sound &= gradient.isfinite().all(-1, True).all(-2, True)
            gradient.masked_fill_(~sound, 0)
            optimizer.step()
        curves.append(means(torch.cat(scores, 1)).cpu())
        times.append(clock())  # after a copy to the CPU, which waits for the device
        if len(curves) >= 3:
            fit = epochs_that_fit(protocol, times, deadline)
        if len(curves) == 3:
            say(f"3 epochs took {times[-1] - times[0]:.3g} s: {fit} of {protocol.epochs} fit")
    with torch.no_grad():
        deaths = h0_persistence(prompts.detach()).deaths
        spread = barcode.coefficient_of_variation(deaths).tolist()
        slices = (slice(begin, begin + size) for begin in range(0, protocol.test_size, size))
        scores = [score(base, prompts, [own[part] for own in test], chunk) for part in slices]
        right = means(torch.cat(scores, 1))[1].tolist()
    records = []
    for index, (arm, seed) in enumerate(itertools.product(arms, protocol.seeds)):
        record: dict[str, Any] = {"kind": "run", "arm": arm, "seed": seed}
        record["task_digest"] = tasks[index % len(tasks)].digest[:16]
        record["diverged"] = not bool(sound[index])
        if not record["diverged"]:
            curve = torch.stack(curves)[..., index].T.tolist()
            ce, accuracy = ([run.six_digits(value) for value in each] for each in curve)
            record |= {"train_ce": ce, "train_accuracy": accuracy, "final_accuracy": right[index]}
            record["coefficient_of_variation"] = run.six_digits(spread[index])
        records.append(record)
    facts = {"kind": "protocol", "protocol": asdict(protocol), "epochs": len(curves)}
    return facts | {"epoch_seconds": round((times[-1] - times[0]) / len(curves), 4)}, records


def main(argv: Sequence[str] | None = None) -> int:
    """Run the protocol and write its results; return 3 if not all epochs were trained."""
    deadline = time.monotonic()
    parser = CommandParser("python -m tsloss_fast.benchmarks.study.on_gpu")
    parser.add_argument("--output", type=Path, required=True, help="folder of protocol.md, .jsonl")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (cuda)")
    text = "for everything; fewer epochs if they do not fit (450)"
    parser.add_argument("--seconds", type=float, default=450.0, help=text)
    parser.add_argument("--miniature", action="store_true", help="only 4 runs of 2 epochs")
    parser.add_argument("--model", default="smollm2", help="or a folder, or a .gguf file (smollm2)")
    parser.add_argument("--chunk", type=int, default=48, help="runs in memory at a time (48)")
    text = "of float32; high uses TF32 (highest)"
    parser.add_argument("--matmul", choices=("highest", "high"), default="highest", help=text)
    options = parser.parse_args(argv)
    deadline += options.seconds
    if options.chunk < 1 or not options.seconds > 0:
        parser.error("--chunk and --seconds must be above 0")
    try:
        check_device(options.device)
    except ValueError as error:
        parser.error(f"--device: {error}")
    check_writable_folder(options.output)
    base, tokenizer = load_model(options.model)
    base = base.to(options.device).eval().requires_grad_(False)
    protocol = MINIATURE if options.miniature else Protocol()
    with warnings.catch_warnings():
        # The tokens of the first prompt coincide on purpose, and the loss warns of it.
        warnings.filterwarnings("ignore", ".*coincide")
        facts, runs = train(protocol, base, tokenizer, deadline, options.chunk, options.matmul)
    facts["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = options.device
    facts["device"] = torch.cuda.get_device_name(name) if base.device.type == "cuda" else name
    facts |= {"model": Path(options.model).name, "matmul": options.matmul, "machine": report()}
    write_results(options.output, facts, runs)
    return 0 if facts["epochs"] == protocol.epochs else 3


if __name__ == "__main__":
    sys.exit(main())
