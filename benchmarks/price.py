"""What a topological loss costs in prompt tuning: tsloss_fast and GUDHI in the same training loop.

Run as ``python -m tsloss_fast.benchmarks.price`` (needs the extra ``tuning``). Each row tunes a
soft prompt, or prefixes of all layers, on 8 Boolean expressions a step. At every step both
libraries compute the same loss of the same points and its gradient; they must agree, and what is
timed is the loss, the gradient to the points, and beside them the step without either. The loss
together with a record of the points is timed twice: with a barcode for each, and with one for both.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tsloss_fast import TSLoss
from tsloss_fast._terminal import table_head, table_row
from tsloss_fast.doctor import machine

from .differentiable import Edges, edge_lengths, gudhi_edges, gudhi_rips_edges, plain_loss
from .measure import load_average, norm_difference, relative_difference
from .records import TOLERANCE
from .report import duration, multiple, small
from .suite import print_and_write

if TYPE_CHECKING:
    from tsloss_fast.analysis import TopologyTracker
    from tsloss_fast.tuning.clouds import LastBarcode

_ITEMS = 8
_OURS = "tsloss_fast"
# Neither is the faster one for every shape; a row shows the one that is.
_GUDHI = {"points": gudhi_rips_edges, "distances": gudhi_edges}
# (virtual tokens, whether they are prefixes of every layer)
_ROWS = ((10, False), (20, False), (100, False), (400, False), (10, True), (20, True))
_QUICK = ((10, False), (10, True))


@dataclass(frozen=True)
class Price:
    """A row of the table: median seconds, and the largest relative differences.

    Attributes:
        name: what the loss acts on.
        step: a training step without a topological loss.
        ours, gudhi: a topological loss, forward and backward.
        separate, shared: a topological loss with its terms, forward and backward, and a record of
            the same points: with a barcode for each, and with one for both.
        way: what GUDHI gets in its faster way.
        value, gradient: how far any two losses were apart at any step.
    """

    name: str
    step: float
    ours: float
    gudhi: float
    separate: float
    shared: float
    way: str
    value: float
    gradient: float

    def share(self, loss: float) -> float:
        """Of a step that computes this loss."""
        return loss / (self.step + loss)

    @property
    def more_expensive(self) -> float:
        """A step with GUDHI's loss, as a multiple of one with ours."""
        return (self.step + self.gudhi) / (self.step + self.ours)


class _Training:
    """A soft prompt or prefixes in front of a frozen model, and their optimizer."""

    def __init__(self, base: Any, tokenizer: Any, tokens: int, prefixes: bool) -> None:
        from tsloss_fast.tuning import add_soft_prompt, initial_prompt, load_task
        from tsloss_fast.tuning.answers import can_share_prompt, encode_items

        task = load_task("boolean", train_size=64, test_size=8, validation_size=0, seed=0)
        self.items = encode_items(task.train, tokenizer)
        if prefixes:
            model = _with_prefixes(base, tokens)
        else:
            model = add_soft_prompt(base, initial_prompt(base, tokenizer, tokens))
        self.model = model.eval()
        self.share = can_share_prompt(self.model, self.items)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.03)

    def points(self) -> Tensor:
        """The clouds (B, N, D) that are trained, with their gradient."""
        from tsloss_fast.tuning import prompt_clouds

        return prompt_clouds(self.model)

    def step(self, number: int) -> None:
        """One step; the gradient of the cross-entropy joins what the prompt has already."""
        from tsloss_fast.tuning.answers import answer_logits

        start = _ITEMS * number
        batch = [self.items[(start + k) % len(self.items)] for k in range(_ITEMS)]
        answer_logits(self.model, batch, share_prompt=self.share).cross_entropy().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _with_prefixes(base: Any, tokens: int) -> Any:
    """Keys and values in front of every layer, as many and as wide as the model has them."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return get_peft_model(base, config)


def _by_edges(edges: Edges) -> Callable[[Tensor], Tensor]:
    """The loss as a user of GUDHI writes it: its critical edges, and everything else in torch."""

    def loss(points: Tensor) -> Tensor:
        # Both ways take float64, the one without converting point by point, the other for
        # distances that are exact where they come from inner products.
        clouds = [plain_loss(edge_lengths(c, edges(c.detach().double()))) for c in points]
        return torch.stack(clouds).mean()

    return loss


def _loss_and_record(
    points: Tensor, number: int, loss: TSLoss, tracker: TopologyTracker, last: LastBarcode | None
) -> float:
    """Seconds for a record of the prompt after a step, and for the loss of the next step, which is
    of the same prompt; with `last` they share a barcode."""
    start = perf_counter()
    prompt = points.detach()
    tracker.record(number, prompt, h0=last.of(prompt) if last else None)
    value, _ = loss(points, return_terms=True, h0=last.of(points) if last else None)
    torch.autograd.grad(value, points)
    return perf_counter() - start


def measure(training: _Training, steps: int) -> Price:
    """Train with the loss, and take the time of the step and of the loss in each library.

    Raises:
        RuntimeError: two libraries disagree, in the loss or in its gradient.
    """
    from tsloss_fast.analysis import TopologyTracker
    from tsloss_fast.tuning.clouds import LastBarcode
    from tsloss_fast.tuning.config import DEFAULT_WEIGHTS

    ts_loss = TSLoss()
    losses: dict[str, Callable[[Tensor], Tensor]] = {_OURS: ts_loss}
    losses |= {way: _by_edges(edges) for way, edges in _GUDHI.items()}
    names = list(losses)
    times = defaultdict[str, list[float]](list)
    value = gradient = 0.0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as trackers:
        # No H1, whose thread would take time from what is measured.
        records = {
            name: trackers.enter_context(TopologyTracker(f"{folder}/{name}", h1_every=None))
            for name in ("untimed", "separate", "shared")
        }
        last = LastBarcode()
        for number in range(steps):
            points = training.points()
            found: dict[str, tuple[Tensor, Tensor]] = {}
            first = number % len(names)
            for name in names[first:] + names[:first]:
                start = perf_counter()
                loss = losses[name](points)
                (slope,) = torch.autograd.grad(loss, points)
                times[name].append(perf_counter() - start)
                found[name] = loss.detach(), slope
            # An untimed one goes first, for which nothing is in the caches yet.
            for name in ("untimed", *sorted(("separate", "shared"), reverse=number % 2 == 0)):
                memo = last if name == "shared" else None
                times[name].append(_loss_and_record(points, number, ts_loss, records[name], memo))
            for way in _GUDHI:
                apart = _differences(found[way], found[_OURS], way)
                value, gradient = max(value, apart[0]), max(gradient, apart[1])
            # Untimed, so that the step is the one without a loss, of a prompt that is trained with
            # it.
            points.backward(DEFAULT_WEIGHTS["tsloss"] * found[_OURS][1])
            start = perf_counter()
            training.step(number)
            times["step"].append(perf_counter() - start)
    # The first step pays for what is made once.
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}
    way = min(_GUDHI, key=medians.__getitem__)
    batch, tokens, dim = points.shape
    what = "a prompt" if batch == 1 else f"{batch} prefixes"
    name = f"{what} of {tokens} × {dim}"
    return Price(
        name,
        step=medians["step"],
        ours=medians[_OURS],
        gudhi=medians[way],
        separate=medians["separate"],
        shared=medians["shared"],
        way=way,
        value=value,
        gradient=gradient,
    )


def _differences(
    found: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor], way: str
) -> tuple[float, float]:
    """Relative differences of loss and gradient, which must be small: times of different things
    do not compare."""
    both = []
    compare = {"loss": relative_difference, "gradient": norm_difference}
    for (what, by), theirs, mine in zip(compare.items(), found, ours, strict=True):
        difference, mismatch = by(theirs.double().numpy(), mine.double().numpy())
        if difference is None or not difference <= TOLERANCE:
            problem = mismatch or f"differs by {difference:.1e}, more than {TOLERANCE:.0e}"
            raise RuntimeError(f"the {what} by GUDHI from {way} and by {_OURS}: {problem}")
        both.append(difference)
    return both[0], both[1]


def _lines(options: argparse.Namespace) -> Iterator[str]:
    from tsloss_fast.tuning import load_model

    torch.set_num_threads(options.threads)
    load = load_average()
    base, tokenizer = load_model(options.model)
    facts = machine()
    yield "# What a topological loss costs in prompt tuning\n"
    yield (
        f"{options.model} ({base.num_parameters() / 1e6:.3g} million parameters), {_ITEMS} Boolean "
        f"expressions a step, AdamW, {options.steps} steps. The loss is `TSLoss()`, forward and "
        "backward: by tsloss_fast, and by GUDHI (critical edges of each cloud from its points or "
        "from its distances, whichever is faster), with their lengths and the loss in torch. Both "
        "at the same points of the same step. Medians without the first step; a share is that of "
        "the step with this loss.\n"
    )
    yield (
        f"tsloss_fast {facts['tsloss-fast']} ({facts['instruction set of tsloss_fast']}), "
        f"gudhi {facts['gudhi']}, torch {facts['torch']} ({facts['instruction set of torch']}), "
        f"{facts['processor']}, {facts['cores']} cores, threads of torch "
        f"{facts['threads of torch']}{'' if load is None else f', load {load:.1f} before'}.\n"
    )
    header = ["what the loss acts on", "step without it", "tsloss_fast", "share", "GUDHI", "share"]
    header += ["GUDHI from", "GUDHI / tsloss_fast", "difference of the loss", "of its gradient"]
    yield from table_head(header)
    prices = []
    for tokens, prefixes in _QUICK if options.quick else _ROWS:
        training = _Training(base, tokenizer, tokens, prefixes)
        price = measure(training, options.steps)
        prices.append(price)
        cells = [price.name, duration(price.step)]
        for loss in (price.ours, price.gudhi):
            cells += [duration(loss), f"{100 * price.share(loss):.3f} %"]
        cells += [price.way, multiple(price.gudhi / price.ours)]
        yield table_row([*cells, small(price.value), small(price.gradient)])
    more = ", ".join(f"{100 * (p.more_expensive - 1):+.2f} % ({p.name})" for p in prices)
    yield f"\nA step with GUDHI's loss takes, beside one with ours: {more}."
    both = ", ".join(
        f"{duration(p.separate)} with a barcode each and {duration(p.shared)} with one for both, "
        f"{multiple(p.separate / p.shared)} ({p.name})"
        for p in prices
    )
    yield f"\nThe loss with its terms and a record of the same points take {both}."
    value, gradient = max(p.value for p in prices), max(p.gradient for p in prices)
    yield (
        f"\nLargest relative difference at any step: {small(value)} of the loss, "
        f"{small(gradient)} of its gradient ({TOLERANCE:.0e} would have ended the run)."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsloss_fast.benchmarks.price",
        description="Measure what share of a prompt tuning step a topological loss takes.",
    )
    parser.add_argument("--model", default="smollm2", help="a model as of `tsloss tune` (smollm2)")
    parser.add_argument("--steps", type=int, help="training steps of each row (21; quick: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--quick", action="store_true", help="only the smallest prompt and prefix")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    options = parser.parse_args(argv)
    if options.steps is None:
        options.steps = 3 if options.quick else 21
    if options.steps < 3:
        parser.error(f"expected at least 3 steps, got {options.steps}")
    if options.threads < 1:
        parser.error(f"expected at least 1 thread, got {options.threads}")
    print_and_write(parser, _lines(options), options.output, "price.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
