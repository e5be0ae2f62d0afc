"""The page of the paper's protocol in Markdown: outcomes of its runs, and differences of pairs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tsloss_fast.benchmarks.study.outcomes import OUTCOMES, Outcome, Record
from tsloss_fast.benchmarks.study.statistics import (
    MINIMUM_SEEDS,
    Comparison,
    holm,
    paired_difference,
)
from tsloss_fast.benchmarks.study.tables import NONE, chance, differences_table, shown

from tsloss_fast._files import whole_file
from tsloss_fast._terminal import counted, say, table_lines

__all__ = ["compare", "page", "write_results"]

# Conditions on an epoch, by the training cross-entropy or the training accuracy.
REACHED: dict[str, Callable[[Record, int], bool]] = {
    "epochs_to_ce": lambda run, epoch: run["train_ce"][epoch] <= 0.1,
    "epochs_to_all": lambda run, epoch: run["train_accuracy"][epoch] == 1,
}
RESULTS = (
    Outcome("epochs_to_ce", "log2 epochs to training CE 0.1", -1, 2),
    Outcome("epochs_to_all", "log2 epochs to training accuracy 1", -1, 2),
    OUTCOMES["train_ce"],
    OUTCOMES["final_accuracy"],
    OUTCOMES["coefficient_of_variation"],
)
# Differences that would not matter: an eighth fewer or more epochs, three points.
MARGINS = {"epochs_to_ce": 0.2, "epochs_to_all": 0.2, "final_accuracy": 0.03}


def outcome_of(run: Record, name: str) -> tuple[float, bool]:
    """Return an outcome of a run, NaN after a divergence, and whether it is censored: the number of
    all epochs stands for an epoch that did not come."""
    if run["diverged"]:
        return math.nan, False
    epochs = len(run["train_ce"])
    if name in REACHED:
        epoch = next((e for e in range(epochs) if REACHED[name](run, e)), None)
        return math.log2(epochs if epoch is None else epoch + 1), epoch is None
    if name == "train_ce":
        return math.fsum(run["train_ce"]) / epochs, False
    return run[name], False


def compare(facts: Record, runs: Sequence[Record]) -> list[Comparison]:
    """Compare every arm with the first one, paired by seed; Holm's correction is over all outcomes
    that can be better or worse, of all arms."""
    table = {(run["arm"], run["seed"]): run for run in runs}
    arms, seeds = facts["protocol"]["arms"], facts["protocol"]["seeds"]
    found = []
    for arm in arms[1:]:
        for outcome in RESULTS:
            values = [
                [outcome_of(table[each, seed], outcome.name) for seed in seeds]
                for each in (arm, arms[0])
            ]
            censored = sum(late for side in values for _, late in side)
            came = any(math.isfinite(value) and not late for side in values for value, late in side)
            never = censored > 0 and not came
            ours, theirs = ([] if never else [value for value, _ in side] for side in values)
            difference = paired_difference(ours, theirs, margin=MARGINS.get(outcome.name))
            found.append(Comparison(arm, outcome, difference, censored, never))
    tested = [each for each in found if each.outcome.better and each.difference.p is not None]
    for entry, p in zip(tested, holm([each.difference.p or 0.0 for each in tested]), strict=True):
        entry.holm = p
    return found


def outcomes_table(facts: Record, runs: Sequence[Record]) -> str:
    """Return the mean of each outcome over the runs of each arm ± their standard deviation."""
    rows = []
    for arm in facts["protocol"]["arms"]:
        own = [run for run in runs if run["arm"] == arm]
        row = [arm, str(len(own)), str(sum(run["diverged"] for run in own))]
        for outcome in RESULTS:
            known = [outcome_of(run, outcome.name) for run in own if not run["diverged"]]
            values, late = [value for value, _ in known], sum(late for _, late in known)
            text = shown(statistics.fmean(values), outcome) if values else NONE
            text += f" ± {shown(statistics.stdev(values), outcome)}" if len(values) > 1 else ""
            row.append(f"≥ {text}, {late} never" if late else text)
        rows.append(row)
    header = ["method", "runs", "diverged", *(outcome.label for outcome in RESULTS)]
    return "\n".join(table_lines(header, rows))


def sentences(facts: Record, found: Sequence[Comparison]) -> Iterator[str]:
    """Yield what the runs were, and the conclusions that their differences allow."""
    protocol, epochs = facts["protocol"], facts["epochs"]
    each = facts["epoch_seconds"]
    if epochs < protocol["epochs"]:
        yield (
            f"**Only {epochs} of {protocol['epochs']} epochs were trained**, since no more fitted "
            f"into the time at {each:g} s each. All runs ended there, so they can be compared."
        )
    else:
        yield f"All {epochs} epochs were trained, at {each:g} s each."
    yield (
        f"{protocol['train_size']} training items of {protocol['task']} and batches of "
        f"{protocol['batch_size']}, {protocol['test_size']} test items, "
        f"{protocol['virtual_tokens']} virtual tokens from the text {protocol['init_text']!r}, "
        f"AdamW at {protocol['lr']:g} without weight decay. The model is {facts['model']}, and "
        f"products of float32 have the precision {facts['matmul']!r}."
    )
    yield "Cross-entropy and training accuracy of an epoch are those of its own training steps."
    if any(entry.difference.pairs < MINIMUM_SEEDS for entry in found):
        yield f"Fewer than {MINIMUM_SEEDS} pairs say nothing of other seeds."
    for entry in found:
        mean, p = entry.difference.mean, entry.difference.equivalence
        enough = entry.difference.pairs >= MINIMUM_SEEDS
        if entry.outcome.name in REACHED and mean is not None and enough:
            ends = (mean, entry.difference.low, entry.difference.high)
            share, low, high = (f"{100 * (2**end - 1):+.0f} %" for end in ends if end is not None)
            what = entry.outcome.label.removeprefix("log2 ")
            yield f"{entry.arm} changes the {what} by {share} ({low} to {high})."
        if p is not None and p < 0.05 and enough and not entry.censored:
            margin = MARGINS[entry.outcome.name]
            yield f"{entry.arm} makes no difference of {margin:g} in {entry.outcome.label}."
    yield from chance(found, 0.95)


def page(facts: Record, runs: Sequence[Record]) -> str:
    """Return the page of one run of the protocol."""
    found = compare(facts, runs)
    names = ("tsloss-fast", "cuda kernels", "torch", "transformers")
    versions = ", ".join(f"{name} {facts['machine'][name]}" for name in names)
    blocks = [
        f"# The paper's protocol on {facts['device']}",
        f"{counted(len(runs), 'run')} as one batch, {facts['date']}.",
        outcomes_table(facts, runs),
        f"Differences to {facts['protocol']['arms'][0]}, paired by seed:",
        differences_table(found),
        "\n".join(f"- {sentence}" for sentence in sentences(facts, found)),
        f"Versions: {versions}.",
    ]
    return "\n\n".join(blocks) + "\n"


def write_results(folder: Path, facts: Record, runs: Sequence[Record]) -> None:
    """Write protocol.jsonl, a line of facts and a line a run, and protocol.md, the page."""
    lines = "".join(json.dumps(each, allow_nan=False) + "\n" for each in (facts, *runs))
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("protocol.jsonl", lines), ("protocol.md", page(facts, runs))):
        with whole_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        say(f"wrote {folder / name}")
