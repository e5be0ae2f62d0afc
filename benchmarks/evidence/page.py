"""The page for a reader who has five minutes."""

from __future__ import annotations

from collections.abc import Sequence

from .results import ExperimentResults
from .tables import table
from .words import conclusions, machines, protocol


def page(everything: Sequence[ExperimentResults]) -> str:
    """The page for a reader who has five minutes."""
    # The pilot chose how to measure: its tables are there, its numbers are in no conclusion.
    experiments = [each for each in everything if each.name != "pilot"]
    pilots = [each for each in everything if each.name == "pilot"]
    if not experiments:
        raise ValueError("no results but those of the pilot: there is nothing to tell yet")
    runs = {
        line["key"]: line for each in experiments for line in each.lines if line["kind"] == "run"
    }
    trials = [run["trial"] for run in runs.values()]
    seconds = sum(run["seconds"]["step"] * run["trial"]["steps"] for run in runs.values())
    models = sorted({trial["model"] for trial in trials})
    seeds = sorted({len(each.design["seeds"]) for each in experiments})
    counts = " or ".join(map(str, seeds))
    levels = " or ".join(sorted({f"{100 * each.design['confidence']:g} %" for each in experiments}))
    folder = experiments[0].file.parent.name
    lines = [
        "# Does TSLoss help?",
        "",
        "Made from the raw results by `python -m tsloss_fast.benchmarks.evidence`.",
        "",
        "## Question",
        "",
        "The paper (arXiv 2602.16500) reports faster convergence and better accuracy for prompt "
        f"tuning with a topological term. Does {', '.join(models)}, prompt-tuned on "
        f"{', '.join(sorted({trial['task'] for trial in trials}))}, show it?",
        "",
        "## Protocol",
        "",
        "- Within a seed all methods have the same first prompt, the same items in the same order "
        "and the same steps; no test item of a seed is a training or validation item of another.",
        "- Learning rate and weight of each method are chosen by the cross-entropy of validation "
        "items, with the same number of runs for every method and with seeds of their own; no test "
        "item is looked at before that.",
        "- The outcomes (steps to a cross-entropy and to an accuracy, area under the accuracy "
        "curve, accuracy at the end) were fixed in the designs, which were committed before the "
        "runs (`tsloss_fast/compare/presets/`).",
        "- Differences to cross-entropy alone are paired by seed, with percentile bootstrap "
        f"intervals of {levels}; **bold** excludes zero. With {counts} seeds such intervals cover "
        "less than they promise: the last lines of this page count how many would exclude zero by "
        "chance.",
        "- The runs of a seed go through the frozen model together, packed into one forward pass. "
        "The tests hold that, with a small model, a run alone and among others has the same bits, "
        "and up to rounding those of peft's own forward pass.",
        f"- {len(runs)} runs; {seconds / 3600:.1f} hours for the training alone, if they had come "
        f"one after another. {machines(experiments)}.",
        "- What the loss itself costs in a step is measured elsewhere, on an idle machine: "
        "`python -m tsloss_fast.benchmarks.price`.",
        "",
        *protocol(experiments),
        *(
            f"- A pilot of {sum(line['kind'] == 'run' for line in each.lines)} runs came before "
            "and is in no conclusion. Its search tied each learning rate to one weight and rested "
            "on one evaluation, and its learning rate was constant; all three were changed, and "
            "the thresholds were taken from its runs of cross-entropy alone. "
            f"[Tables]({folder}/{each.name}.md), [raw results]({folder}/{each.name}.jsonl)."
            for each in pilots
        ),
        "",
        "## Result",
        "",
        "Majority is the rate of the most frequent answer, zero-shot that of the model without a "
        "prompt, given the form of an answer. Accuracy is the mean at the end, CV the coefficient "
        "of variation of the prompt's bars at the end (what TSLoss is to lower); the columns after "
        "it are differences to the first method of the setting.",
        "",
        *table(experiments),
        "",
        *(
            f"![Accuracy and differences of {each.name}]({folder}/{each.name}.png)"
            for each in experiments[:1]
        ),
        "",
        "## What we conclude, and what we do not",
        "",
        *conclusions(experiments),
        "- Nothing here speaks of larger models, longer training or other tasks.",
        "",
    ]
    return "\n".join(lines)
