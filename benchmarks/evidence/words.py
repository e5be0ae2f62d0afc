"""What is concluded from the experiments, and how they were made, in sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from tsloss_fast.compare.comparison import Comparison
from tsloss_fast.compare.statistics import MINIMUM_SEEDS
from tsloss_fast.compare.summary import edge_warnings
from tsloss_fast.compare.words import chance, group_name, methods_with_equal_runs, without_effect

from .results import ExperimentResults


def conclusions(experiments: Sequence[ExperimentResults]) -> Iterator[str]:
    """The settings whose interval excludes zero, those whose does not, and what chance gives."""
    everything: dict[float, list[Comparison]] = {}
    better: list[str] = []
    worse: list[str] = []
    neither: list[str] = []
    unfinished: list[str] = []
    seen = set()
    for each in experiments:
        for group, name, found in each.compared:
            methods: dict[str, list[Comparison]] = {}
            equal = {one: several for several in methods_with_equal_runs(group) for one in several}
            for entry in found:
                # Experiments share runs: a comparison is told once, and counted once even where
                # methods were the same thing.
                where = (*group.shared.values(), entry.outcome.name)
                if (*where, entry.method) in seen or entry.difference is None:
                    continue
                if all((*where, method) not in seen for method in equal.get(entry.method, ())):
                    everything.setdefault(each.experiment.confidence, []).append(entry)
                seen.add((*where, entry.method))
                methods.setdefault(entry.method, []).append(entry)
            for method, entries in methods.items():
                told = f"{method} ({each.name}: {name})"
                claims = [e for e in entries if e.difference is not None and e.difference.claim]
                for verdict, into in (("better", better), ("worse", worse)):
                    which = [e.outcome.label for e in claims if e.verdict == verdict]
                    if which:
                        into.append(f"{told}: {', '.join(which)}")
                if not claims:
                    few = any(e.difference and e.difference.pairs < MINIMUM_SEEDS for e in entries)
                    (unfinished if few else neither).append(told)
    for title, lines in (
        ("The interval excludes zero, for the better", better),
        ("The interval excludes zero, for the worse", worse),
        ("No interval excludes zero", neither),
        ("Too few seeds so far to say anything", unfinished),
    ):
        if lines or title.startswith("The interval"):
            yield f"- {title}: {'; '.join(lines) if lines else 'nowhere'}."
    for level, entries in sorted(everything.items()):
        yield from (f"- {sentence}" for sentence in chance(entries, level))
    for each in experiments:
        for group, name, _ in each.compared:
            for sentence in without_effect(group):
                yield f"- {each.name}: {name}: {sentence}"
    yield from (f"- {sentence}" for sentence in _at_the_edge(experiments))


def _at_the_edge(experiments: Sequence[ExperimentResults]) -> Iterator[str]:
    """Choices at the end of what was tried."""
    found = total = 0
    for each in experiments:
        for group in each.experiment.groups:
            found += len(edge_warnings(each.experiment, group))
        for choice in each.experiment.choices:
            for name in ("lr", "weight"):
                total += len({trial[name] for trial in choice["trials"]}) > 1
    if found:
        yield (
            f"Of {total} learning rates and weights that were chosen, {found} are the smallest or "
            "the largest that was tried: a better one may lie beyond. The tables name them."
        )


def protocol(experiments: Sequence[ExperimentResults]) -> Iterator[str]:
    for each in experiments:
        design = each.design
        search = design["search"]
        tasks = "; ".join(
            f"{plan['task']} ({plan['train_size']} training items, {plan['steps']} steps of "
            f"{plan['batch_size']}, {plan['test_size']} test items)"
            for plan in design["tasks"]
        )
        chosen = (
            f"{search['trials'] * len(search['seeds'])} runs a method choose learning rate and "
            "weight"
            if search
            else "fixed learning rate and weights"
        )
        place = f"{each.file.parent.name}/{each.name}"
        yield (
            f"- **{each.name}**: {design['question']} {len(design['methods'])} methods, "
            f"{len(design['seeds'])} seeds; {tasks}; {chosen}. [Tables]({place}.md), "
            f"[figure]({place}.png), [raw results]({place}.jsonl)."
            f"{_changes(each)}{_unfinished(each)}"
        )


def _unfinished(each: ExperimentResults) -> str:
    """The settings of a design without a finished run."""
    names = [group_name(group) for group in each.experiment.not_begun]
    return f" Not run yet: {'; '.join(names)}." if names else ""


def _changes(each: ExperimentResults) -> str:
    """What of a design was changed after it was first written down."""
    text = ""
    for before, after in itertools.pairwise(each.designs):
        keys = sorted({*before["design"], *after["design"]})
        changed = [k for k in keys if before["design"].get(k) != after["design"].get(k)]
        runs = before["runs before the next"]
        if changed and runs:
            text += (
                f" The design was changed after {runs} runs ({after['date'][:10]}): "
                f"{', '.join(changed)}."
            )
    return text


def machines(experiments: Sequence[ExperimentResults]) -> str:
    found: dict[str, set[str]] = {}
    for each in experiments:
        for session in each.sessions:
            machine = session["machine"]
            text = (
                f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']} "
                f"({machine['instruction set of torch']}), {session['processes']} processes of "
                f"{session['threads']} thread(s)"
            )
            found.setdefault(text, set()).add(session["date"][:10])
    return "; ".join(f"{text} ({', '.join(sorted(days))})" for text, days in found.items())
