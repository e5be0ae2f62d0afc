"""A cohort: the runs of one group and seed, trained side by side through one forward pass.

They read the same items in the same order from the same first prompt, and differ in what is added
to the cross-entropy, in its weight and in the learning rate. Each has its own parameters, its own
loss and its own AdamW; the frozen model is the only thing that they share.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tsloss_fast import h0_persistence
from tsloss_fast.compare.checkpoint import read_checkpoint, write_checkpoint
from tsloss_fast.compare.cohort_items import CohortItems
from tsloss_fast.compare.methods import Method
from tsloss_fast.compare.model import Model
from tsloss_fast.compare.scores import Score, score_prompts, six_digits
from tsloss_fast.compare.trial import Trial, trial_key
from tsloss_fast.tuning.answers import EncodedItem
from tsloss_fast.tuning.evaluation import topology
from tsloss_fast.tuning.packed import PackedAnswers, initial_adapter
from tsloss_fast.tuning.prompts import initial_prompt

__all__ = ["Cohort", "CohortInterrupted"]

# What must be the same for all trials of a cohort is everything but these.
_OWN = ("method", "settings", "lr", "weight")

Report = Callable[[Mapping[str, Any]], None]


class CohortInterrupted(KeyboardInterrupt):
    """An interrupt, after the state of the cohort was written."""


class Cohort:
    """Trains the runs of some trials that differ in their method, its weight and the learning rate.

    Args:
        trials: at least one; all but the method, its settings, the weight and the learning rate
            agree.
        model: the frozen model.
        state: the file in which the cohort goes on after it was stopped.
        report: called with {"step", "steps"} at each evaluation.
        interrupted: asked after each step but the last; if it says yes, the state is written and
            `CohortInterrupted` raised.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        model: Model,
        state: Path,
        report: Report = lambda message: None,
        interrupted: Callable[[], bool] = lambda: False,
        checkpoint_every: int = 10,
    ) -> None:
        self.trials = list(trials)
        self.keys = [trial_key(trial) for trial in self.trials]
        self.common = {k: v for k, v in self.trials[0].items() if k not in _OWN}
        for trial in self.trials:
            other = {k: v for k, v in trial.items() if k not in _OWN}
            if other != self.common:
                raise ValueError("the trials of a cohort may differ in method, lr and weight only")
        self.model = model
        self.state = state
        self.report = report
        self.interrupted = interrupted
        self.checkpoint_every = checkpoint_every
        self.methods = [Method(trial["method"], **trial["settings"]) for trial in self.trials]
        common = self.common
        self.items = CohortItems(common, model.tokenizer)
        initial = initial_prompt(
            model.base,
            model.tokenizer,
            common["virtual_tokens"],
            common["init"],
            common["init_text"],
            common["seed"],
            common["jitter"],
        )
        self.packed = model.can_pack(common["adapter"], initial, self.items.train)
        start = initial_adapter(model.base, initial, common["adapter"]).to(model.device)
        self.parameters = [start.clone().requires_grad_() for _ in self.trials]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [parameter], "lr": trial["lr"], "weight_decay": trial["weight_decay"]}
                for parameter, trial in zip(self.parameters, self.trials, strict=True)
            ]
        )
        self.hidden = any(method.on_hidden for method in self.methods)
        self.terms = self._terms(start)
        count = len(self.trials)
        self.step = 0
        self.curves: list[list[dict[str, float]]] = [[] for _ in range(count)]
        self.train_ce: list[list[float]] = [[] for _ in range(count)]
        self.term_seconds = [0.0] * count
        self.model_seconds = 0.0
        self.diverged: list[int | None] = [None] * count
        self.reference: dict[str, float] = {}

    def finish(self) -> list[dict[str, Any]]:
        """Train from where the cohort stopped to the last step; the records of its runs."""
        self._restore()
        steps = self.common["steps"]
        scores: list[Score] = []
        if self.step == 0:
            self.reference = self._reference()
            self._evaluate()
        while self.step < steps:
            self._advance()
            if self.step == steps:
                scores = self._evaluate(everything=True)
            elif self.step % self.common["eval_every"] == 0:
                self._evaluate()
            # Asked once: what is saved is what is left behind. The last step goes on to the end.
            stop = self.step < steps and self.interrupted()
            if stop or (self.step < steps and self.step % self.checkpoint_every == 0):
                self._save()
            if stop:
                raise CohortInterrupted
        return [self._record(index, score) for index, score in enumerate(scores)]

    def _answers(
        self, prompts: Tensor, items: Sequence[EncodedItem], hidden: bool = False
    ) -> PackedAnswers:
        return self.model.answers(prompts, items, packed=self.packed, hidden=hidden)

    def _scores(self, prompts: Tensor, items: Sequence[EncodedItem]) -> list[Score]:
        return score_prompts(self._answers, prompts, items, self.items.choices)

    def _terms(self, start: Tensor) -> list[Callable[[Tensor], Tensor]]:
        states = start
        if self.hidden:
            with torch.no_grad():
                found = self._answers(start[None], self.items.train[:1], hidden=True).hidden
                assert found is not None
                states = found[0]
        return [method.make_term(states if method.on_hidden else start) for method in self.methods]

    def _advance(self) -> None:
        self.step += 1
        batch = self.items.batch(self.step)

        began = time.perf_counter()
        answers = self._answers(torch.stack(self.parameters), batch, hidden=self.hidden)
        ce = answers.cross_entropy()
        objective = ce.sum()
        weights = [
            trial["weight"] * method.share(self.step, self.common["steps"])
            for trial, method in zip(self.trials, self.methods, strict=True)
        ]
        for index, (method, weight) in enumerate(zip(self.methods, weights, strict=True)):
            if method.on_hidden and weight:
                assert answers.hidden is not None
                states = answers.hidden[index]
                # Of a run that has diverged the cross-entropy tells.
                if bool(states.isfinite().all()):
                    objective = objective + weight * self.terms[index](states)
        gradients = list(torch.autograd.grad(objective, self.parameters))
        self.model_seconds += time.perf_counter() - began

        for index, (method, weight) in enumerate(zip(self.methods, weights, strict=True)):
            if method.on_hidden or method.adds_nothing or not weight:
                continue
            began = time.perf_counter()
            term = weight * self.terms[index](self.parameters[index])
            gradients[index] = (
                gradients[index] + torch.autograd.grad(term, self.parameters[index])[0]
            )
            self.term_seconds[index] += time.perf_counter() - began

        began = time.perf_counter()
        if self.common["lr_schedule"] == "linear":
            left = 1 - (self.step - 1) / self.common["steps"]
            for group, trial in zip(self.optimizer.param_groups, self.trials, strict=True):
                group["lr"] = trial["lr"] * left
        for index, value in enumerate(ce.detach().tolist()):
            finite = math.isfinite(value) and bool(gradients[index].isfinite().all())
            if not finite and self.diverged[index] is None:
                self.diverged[index] = self.step
            # A run that diverged stays as it was; the others go on.
            alive = self.diverged[index] is None
            self.parameters[index].grad = gradients[index] if alive else None
            if alive:
                self.train_ce[index].append(six_digits(value))
        self.optimizer.step()
        self.model_seconds += time.perf_counter() - began

    def _evaluate(self, everything: bool = False) -> list[Score]:
        split = self.items.split
        items = split if everything else split[: self.items.curve_size]
        prompts = torch.stack([parameter.detach() for parameter in self.parameters])
        if self.step == 0:
            scores = self._scores(prompts[:1], items) * len(prompts)  # all begin alike
        else:
            scores = self._scores(prompts, items)
        for curve, score, parameter in zip(self.curves, scores, self.parameters, strict=True):
            cloud = parameter.detach()
            cloud = cloud if cloud.ndim == 3 else cloud[None]
            shape = {
                name: six_digits(value)
                for name, value in topology(h0_persistence(cloud).deaths).items()
                if name != "persistent_entropy"
            }
            curve.append({"step": self.step, **score.summary(self.items.curve_size), **shape})
        self.report({"step": self.step, "steps": self.common["steps"]})
        return scores

    def _reference(self) -> dict[str, float]:
        """The rates that belong beside an accuracy: on all items of the split, without a prompt."""
        width = self.model.base.get_input_embeddings().weight.shape[1]
        empty = torch.zeros(1, 0, width, device=self.model.device)
        (score,) = self._scores(empty, self.items.split)
        found = score.summary(len(self.items.split))
        return {
            "majority_rate": self.items.majority_rate,
            "zero_shot_accuracy": found["accuracy"],
            "zero_shot_restricted_accuracy": found["restricted_accuracy"],
            "zero_shot_ce": found["ce"],
        }

    def _record(self, index: int, score: Score) -> dict[str, Any]:
        steps = self.common["steps"]
        term = self.term_seconds[index] / steps
        # Within the forward pass the term's time cannot be told from the model's.
        return {
            "kind": "run",
            "key": self.keys[index],
            "trial": self.trials[index],
            "reference": self.reference,
            "split": self.items.split_name,
            "curve": self.curves[index],
            "train_ce": self.train_ce[index],
            "end": {"items": len(self.items.split), **score.summary(len(self.items.split))},
            "seconds": {
                "step": six_digits(self.model_seconds / steps / len(self.trials) + term),
                "term": None if self.methods[index].on_hidden else six_digits(term),
            },
            "diverged": self.diverged[index],
            "cohort": len(self.trials),
            "forward": "packed" if self.packed else "padded",
            "task_digest": self.items.task.digest[:16],
        }

    def _save(self) -> None:
        state = {
            "step": self.step,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            # The reference of compactness.
            "terms": [
                term.state_dict() if isinstance(term, nn.Module) else {} for term in self.terms
            ],
            "curves": self.curves,
            "train_ce": self.train_ce,
            "term_seconds": self.term_seconds,
            "model_seconds": self.model_seconds,
            "diverged": self.diverged,
            "reference": self.reference,
        }
        write_checkpoint(self.state, self.keys, state)

    def _restore(self) -> None:
        state = read_checkpoint(self.state, self.keys, self.model.device)
        if state is None:
            return
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        for term, saved in zip(self.terms, state["terms"], strict=True):
            if isinstance(term, nn.Module):
                term.load_state_dict(saved)
        for name in ("step", "curves", "train_ce", "term_seconds", "model_seconds", "diverged"):
            setattr(self, name, state[name])
        self.reference = state["reference"]
