"""One run of prompt tuning, from its newest checkpoint to its last step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from tsloss_fast import H0Persistence, h0_persistence
from tsloss_fast.analysis.record import RECORD
from tsloss_fast.analysis.tracker import TopologyTracker
from tsloss_fast.tuning.answers import EncodedItem, answer_logits, can_share_prompt, encode_items
from tsloss_fast.tuning.checkpoint import (
    Position,
    load_latest_checkpoint,
    save_adapter,
    save_checkpoint,
    save_epoch_prompt,
)
from tsloss_fast.tuning.clouds import LastBarcode, prompt_clouds
from tsloss_fast.tuning.compatibility import refuse_long_items
from tsloss_fast.tuning.config import TuneConfig
from tsloss_fast.tuning.evaluation import Choices, evaluate, topology
from tsloss_fast.tuning.interrupt import deferred_interrupt
from tsloss_fast.tuning.prompts import add_soft_prompt, initial_prompt
from tsloss_fast.tuning.run_folder import MetricsLog, read_metrics
from tsloss_fast.tuning.tasks import Task

__all__ = ["Progress", "Run", "TuneResult", "TuningInterrupted", "epoch_order"]

Progress = Callable[[Mapping[str, Any]], None]


class TuningInterrupted(KeyboardInterrupt):
    """An interrupt, after a checkpoint was written; the message says how to go on."""


@dataclass(frozen=True)
class TuneResult:
    """Where a finished run is and how it ended; `prompt` is (N, D) float32 on the CPU."""

    folder: Path
    prompt: Tensor
    final: Mapping[str, Any]
    """The last evaluation, a line of the log, with the rates that belong beside an accuracy."""
    resumed_from: int
    """The step of the checkpoint that this call started from, 0 for a fresh run."""


def epoch_order(seed: int, epoch: int, size: int) -> list[int]:
    """The order of the training items in an epoch: a permutation of 0 … size - 1."""
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(size).tolist()
    return order


def _digest_of_tokens(items: Sequence[EncodedItem]) -> str:
    tokens = [(item.question, item.answer) for item in items]
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()


class Run:
    """The state of one run between its first step and its last.

    Attributes:
        tokens_digest: SHA-256 of the tokens of all items, which tells tokenizers apart.
    """

    def __init__(
        self,
        config: TuneConfig,
        folder: Path,
        task: Task,
        base: Any,
        tokenizer: Any,
        report: Progress,
    ) -> None:
        self.config = config
        self.folder = folder
        self.task = task
        self.base = base.eval()
        self.report = report
        self.train = encode_items(task.train, tokenizer)
        self.test = encode_items(task.test, tokenizer)
        self.validation = encode_items(task.validation, tokenizer)
        encoded = (*self.train, *self.test, *self.validation)
        items = (*task.train, *task.test, *task.validation)
        refuse_long_items(self.base, items, encoded, config.virtual_tokens)
        self.tokens_digest = _digest_of_tokens(encoded)
        self.choices = Choices(item.answer for item in encoded)
        initial = initial_prompt(
            self.base,
            tokenizer,
            config.virtual_tokens,
            config.init,
            config.init_text,
            config.seed,
            config.jitter,
        )
        self.model: PeftModel = add_soft_prompt(self.base, initial).to(config.device)
        # Eval mode for the frozen base: dropout would only add noise to the prompt's gradient.
        self.model.eval()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay
        )
        self.loss: nn.Module = config.make_loss().to(config.device)
        self.last_barcode = LastBarcode()
        self.steps_per_epoch = -(-len(self.train) // config.batch_size)

    def finish(self) -> TuneResult:
        """Train from the newest checkpoint to the last step."""
        position = load_latest_checkpoint(self.folder, self.model, self.optimizer, self.loss)
        resumed_from = position.step
        log = MetricsLog(self.folder, position.metrics_bytes)
        tracker = self._tracker(position)
        with contextlib.closing(log), tracker, deferred_interrupt() as interrupted:
            if position.share_prompt is None:
                position = self._begin(log)
                self._record(tracker, 0, keep=True)
            else:
                self.report({"kind": "resume", "step": position.step})
            while position.step < self.config.steps:
                position = self._advance(position, log)
                step = position.step
                last = step == self.config.steps
                self._record(tracker, step, keep=last)
                if last or interrupted() or step % self.config.checkpoint_every == 0:
                    position = replace(position, metrics_bytes=log.sync())
                    tracker.flush()
                    save_checkpoint(self.folder, position, self.model, self.optimizer, self.loss)
                if interrupted() and not last:
                    raise TuningInterrupted(
                        f"interrupted after step {step} of {self.config.steps}; a checkpoint is in "
                        f"{self.folder}: the same command goes on from there"
                    )
        save_adapter(self.folder, self.model)
        records = read_metrics(self.folder)
        reference = next(record for record in records if record["kind"] == "reference")
        final = [record for record in records if record["kind"] == "eval"][-1]
        prompt = self._prompt()[0].cpu().clone()
        return TuneResult(self.folder, prompt, reference | final, resumed_from)

    def _tracker(self, position: Position) -> TopologyTracker:
        """The record of topology, as long as it was at the checkpoint."""
        begun = position.share_prompt is not None
        return TopologyTracker(
            self.folder / RECORD,
            h1_every=self.config.eval_every,
            points_every=self.config.eval_every,
            clouds=["prompt"],
            metadata={"model": self.config.model},
            # Of a run killed before its first checkpoint nothing is kept.
            resume=position.step if begun else -1,
            resume_points=self._prompt() if begun else None,
        )

    def _prompt(self) -> Tensor:
        return prompt_clouds(self.model).detach()

    def _record(self, tracker: TopologyTracker, step: int, keep: bool) -> None:
        prompt = self._prompt()
        tracker.record(step, prompt, keep=keep, h0=self.last_barcode.of(prompt))

    def _barcode(self, clouds: Tensor) -> H0Persistence:
        """The barcode of clouds (B, N, D), without gradient."""
        return self.last_barcode.of(clouds) or h0_persistence(clouds.detach())

    def _begin(self, log: MetricsLog) -> Position:
        """What is done once, before the first step."""
        # Evaluated on the bare base model: peft wraps it without changing it.
        zero_shot = evaluate(self.base, self.test, self.choices)
        share_prompt = can_share_prompt(self.model, self.train)
        self._write(
            log,
            {
                "kind": "reference",
                "majority_rate": self.task.majority_rate,
                "zero_shot_accuracy": zero_shot.accuracy,
                "zero_shot_restricted_accuracy": zero_shot.restricted_accuracy,
                "zero_shot_ce": zero_shot.ce,
                "train_items": len(self.train),
                "test_items": len(self.test),
                "share_prompt": share_prompt,
            },
        )
        position = Position(0, 0, share_prompt)
        self._evaluate(position, log)
        save_epoch_prompt(self.folder, 0, self.model)
        return position

    def _advance(self, position: Position, log: MetricsLog) -> Position:
        """One step, its lines in the log and, at the end of an epoch, the epoch's prompt."""
        position = replace(position, step=position.step + 1)
        step = position.step
        self._write(log, self._train_step(position))
        if step % self.config.eval_every == 0 or step == self.config.steps:
            self._evaluate(position, log)
        if step % self.steps_per_epoch == 0:
            save_epoch_prompt(self.folder, step // self.steps_per_epoch, self.model)
        return position

    def _train_step(self, position: Position) -> dict[str, Any]:
        start = time.perf_counter()
        epoch, index = divmod(position.step - 1, self.steps_per_epoch)
        answers = answer_logits(
            self.model, self._batch(epoch, index), share_prompt=bool(position.share_prompt)
        )
        ce = answers.cross_entropy()
        if not bool(torch.isfinite(ce)):
            raise FloatingPointError(
                f"the cross-entropy is {ce.item()} at step {position.step}: use a learning rate "
                f"below {self.config.lr:g}, in another folder"
            )
        clouds = prompt_clouds(self.model)
        h0 = self._barcode(clouds)
        # Measured only, under plain cross-entropy: not a node of its graph.
        with contextlib.nullcontext() if self.config.weight else torch.no_grad():
            value, terms = self.loss(clouds, return_terms=True, h0=h0)
        loss = ce + self.config.weight * value if self.config.weight else ce
        self.optimizer.zero_grad()
        loss.backward()
        squares = [p.grad.square().sum() for p in self.parameters if p.grad is not None]
        measured = topology(h0.deaths)
        self.optimizer.step()
        return {
            "kind": "step",
            "step": position.step,
            "epoch": epoch + 1,
            "ce": ce.item(),
            "loss": loss.item(),
            "tsloss": value.item(),
            "terms": {name: term.item() for name, term in terms.items()},
            **measured,
            "grad_norm": float(sum(squares)) ** 0.5,
            "seconds": round(time.perf_counter() - start, 4),
        }

    def _batch(self, epoch: int, index: int) -> list[EncodedItem]:
        order = epoch_order(self.config.seed, epoch, len(self.train))
        size = self.config.batch_size
        return [self.train[item] for item in order[index * size : (index + 1) * size]]

    def _evaluate(self, position: Position, log: MetricsLog) -> None:
        start = time.perf_counter()
        share_prompt = bool(position.share_prompt)
        test = evaluate(self.model, self.test, self.choices, share_prompt=share_prompt)
        record: dict[str, Any] = {"kind": "eval", "step": position.step, **vars(test)}
        if self.validation:
            validation = evaluate(
                self.model, self.validation, self.choices, share_prompt=share_prompt
            )
            record |= {f"validation_{name}": value for name, value in vars(validation).items()}
        record |= topology(self._barcode(self._prompt()).deaths)
        self._write(log, record | {"seconds": round(time.perf_counter() - start, 4)})

    def _write(self, log: MetricsLog, record: dict[str, Any]) -> None:
        log.write(record)
        self.report(record)
