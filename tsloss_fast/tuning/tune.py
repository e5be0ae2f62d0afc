"""Prompt tuning of a frozen language model with cross-entropy and a topological loss."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    HfArgumentParser,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

import tsloss_fast
from tsloss_fast import barcode, h0_persistence
from tsloss_fast._files import whole_file, whole_folder
from tsloss_fast.analysis.record import RECORD
from tsloss_fast.tuning.answers import (
    Choices,
    EncodedItem,
    answer_logits,
    can_share_prompt,
    encode_items,
    evaluate,
)
from tsloss_fast.tuning.callback import PromptTopologyCallback
from tsloss_fast.tuning.clouds import prompt_clouds
from tsloss_fast.tuning.compatibility import refuse_long_items, refuse_other_models
from tsloss_fast.tuning.config import TuneConfig
from tsloss_fast.tuning.models import load_model, model_digest
from tsloss_fast.tuning.prompts import add_soft_prompt, initial_prompt
from tsloss_fast.tuning.run_folder import (
    CHECKPOINTS,
    PROMPTS,
    MetricsLog,
    check_configuration,
    claim,
    exclusive,
    finish_checkpoint,
    forget_untrained,
    newest_checkpoint,
    read_metrics,
)
from tsloss_fast.tuning.tasks import Task, load_task
from tsloss_fast.tuning.trainer import TSLossMixin

__all__ = [
    "Progress",
    "TuneConfig",
    "TuneResult",
    "TuningInterrupted",
    "refuse_early",
    "tune",
]

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


def tune(
    config: TuneConfig,
    progress: Progress | None = None,
    *,
    load: Callable[[], tuple[Any, Any]] | None = None,
    command: str | None = None,
) -> TuneResult:
    """Tune a soft prompt; go on from the newest checkpoint if the folder holds one.

    The training is that of `TSLossTrainer` and `PromptTopologyCallback`, on a base model that is
    frozen and in eval mode, so that the prompt is the only parameter. Per step, with the prompt's
    cloud P, loss = cross-entropy of the answer tokens + weight · loss term(P). On the CPU a run
    that was killed at any moment and started again ends with the same bits as one that was not.

    A run goes on only as what it began as. The folder remembers the settings, a digest of the items
    and of their tokens, a digest of the model's weights and configuration, and the minor versions
    of tsloss_fast, torch and transformers; if one of them differs, the error names it. More `steps`
    extend a finished run. Patch versions, the processor and the number of threads are not compared,
    and may change the last bits.

    `metrics.jsonl` gets a line a step (`kind` "step": ce, loss, tsloss, its unweighted terms, the
    topology of the prompt after the step, `seconds` of the step and `loss_seconds` of them in the
    term and the record), a line an evaluation ("eval": of the prompt after that step) and a first
    line ("reference": rates without any tuning). Only the seconds differ between two runs with the
    same settings.

    Under `torchrun` each process takes `batch_size` items a step, and the first one writes.

    Args:
        config: the settings.
        progress: called with each record as it is written, and once with
            `{"kind": "resume", "step": …}` on resuming.
        load: gives (model, tokenizer) in place of `load_model(config.model)`, for example to load
            once for several runs. Called when nothing else can go wrong early. The model is not
            changed, but its parameters stop asking for gradients.
        command: the command line that reports show, kept in `config.json` of a fresh run.

    Raises:
        RunFolderError: the folder belongs to another configuration, model or process, was begun by
            an older version, is damaged, or cannot be written to.
        TuningInterrupted: after an interrupt (SIGINT); nothing that was computed is lost.
        FloatingPointError: the loss became NaN or infinite.
        ValueError: the task has too few items, or none of that difficulty; an item is too long for
            the model; the model is an encoder-decoder, or its weights are not in memory; a field of
            `config.trainer` that there is not, or that another setting decides.
        FileNotFoundError: as `load_task`.
        ModelNotAvailableError: as `load_model`.
    """
    folder = Path(config.out)
    task, arguments, identity = _prepare(config)
    processes = PartialState(cpu=arguments.use_cpu)
    with exclusive(folder) if processes.is_main_process else contextlib.nullcontext():
        # Before the model is loaded, which takes its time; written only when everything is there,
        # so that a mistyped name does not stay in the folder.
        fresh = check_configuration(folder, identity, _VERSIONS) is None
        model: Any
        model, tokenizer = load() if load is not None else load_model(config.model)
        refuse_other_models(model)
        digest = model_digest(model)
        splits = [encode_items(split, tokenizer) for split in (task.train, task.test)]
        splits.append(encode_items(task.validation, tokenizer))
        encoded = [item for split in splits for item in split]
        items = (*task.train, *task.test, *task.validation)
        refuse_long_items(model, items, encoded, config.virtual_tokens)
        tokens = json.dumps([(item.question, item.answer) for item in encoded])
        initial = initial_prompt(
            model,
            tokenizer,
            config.virtual_tokens,
            config.init,
            config.init_text,
            config.seed,
            config.jitter,
        )
        prompted = add_soft_prompt(model.to(arguments.device), initial).to(arguments.device)
        if processes.is_main_process:
            digests = {"model": digest, "tokens": hashlib.sha256(tokens.encode()).hexdigest()}
            claim(folder, identity, _VERSIONS, digests, command)
        processes.wait_for_everyone()
        try:
            return _PromptTrainer(config, arguments, task, prompted, splits, progress).run()
        except Exception:
            # A run that the Trainer refuses has trained nothing, so its folder becomes free again.
            if fresh and processes.is_main_process:
                forget_untrained(folder)
            raise


def refuse_early(configs: Iterable[TuneConfig]) -> None:
    """Raise what `tune` raises before it loads a model, for each of several runs to come."""
    for config in configs:
        _, _, identity = _prepare(config)
        with exclusive(Path(config.out)):
            check_configuration(Path(config.out), identity, _VERSIONS)


_VERSIONS = {
    "tsloss_fast": tsloss_fast.__version__,
    "torch": str(torch.__version__),
    "transformers": transformers.__version__,
}


def _prepare(config: TuneConfig) -> tuple[Task, TrainingArguments, dict[str, Any]]:
    """Return the items, the Trainer's arguments, and all settings that the result depends on."""
    task = load_task(
        config.task,
        train_size=config.train_size,
        test_size=config.test_size,
        validation_size=config.validation_size,
        seed=config.seed,
        difficulty=config.difficulty,
    )
    identity = config.identity() | {"task_digest": task.digest}
    return task, _training_arguments(config), identity


def _training_arguments(config: TuneConfig) -> TrainingArguments:
    """The Trainer's arguments: those of the configuration, and the fields in `config.trainer`."""
    cpu = torch.device(config.device).type == "cpu"
    decided: dict[str, Any] = {
        "output_dir": str(Path(config.out, CHECKPOINTS)),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch_size,
        "learning_rate": config.lr,
        "weight_decay": config.weight_decay,
        "seed": config.seed,
        "data_seed": config.seed,
        "eval_strategy": "steps",
        "eval_steps": config.eval_every,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_every,
        # `finish_checkpoint` prunes, once a checkpoint is whole.
        "save_total_limit": None,
        "save_only_model": False,
        "load_best_model_at_end": False,
        "eval_on_start": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "use_cpu": cpu,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "disable_tqdm": True,
        "restore_callback_states_from_checkpoint": True,
        "metric_for_best_model": "validation_ce" if config.patience else None,
        "greater_is_better": False if config.patience else None,
    }
    usual: dict[str, Any] = {
        "optim": "adamw_torch",
        "lr_scheduler_type": "constant",
        # The norm is measured, and nothing is clipped.
        "max_grad_norm": math.inf,
        "dataloader_pin_memory": not cpu,
        "report_to": "none",
    }
    known = {field.name for field in fields(TrainingArguments) if field.init}
    for name in config.trainer:
        if name not in known:
            raise ValueError(f"trainer: transformers.TrainingArguments has no field {name!r}")
        if name in decided:
            raise ValueError(
                f"trainer: {name!r} is decided by the other settings of tune (such as steps, lr, "
                "seed, eval_every), so it cannot be given here"
            )
    texts = {name: value for name, value in config.trainer.items() if isinstance(value, str)}
    options = [part for name, value in texts.items() for part in (f"--{name}", value)]
    try:
        kind: Any = TrainingArguments
        parsed = vars(HfArgumentParser(kind, exit_on_error=False).parse_args(options))
        given = {name: parsed[name] if name in texts else v for name, v in config.trainer.items()}
        arguments = TrainingArguments(**(usual | given | decided))
        # An integration that there is not is refused here, and not when the model is loaded.
        integrations: Any = transformers.integrations
        integrations.get_reporting_integration_callbacks(arguments.report_to)
    except (Exception, SystemExit) as error:
        raise ValueError(f"trainer: {dict(config.trainer)} cannot be used: {error}") from error
    if not cpu:
        # More than one device would make the Trainer copy the model to all of them.
        arguments._n_gpu = 1
    return arguments


class _AnswerTrainer(Trainer):
    """Computes the cross-entropy of the answer tokens, with the prompt run once for a batch."""

    model: Any
    share_prompt = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        # Dropout in the frozen model would only add noise to the prompt's gradient.
        self.model.get_base_model().eval()
        # Sharing goes past the model's own forward, which synchronises the gradients of several
        # processes and casts to half precision.
        share = self.share_prompt and model is self.model and not (self.args.bf16 or self.args.fp16)
        ce = answer_logits(model, inputs["items"], share_prompt=share).cross_entropy()
        self._refuse_divergence("cross-entropy", ce, self.state.global_step + 1)
        return (ce, None) if return_outputs else ce

    def _refuse_divergence(self, name: str, values: Tensor, step: int) -> None:
        if not bool(values.isfinite().all()):
            raise FloatingPointError(
                f"the {name} is not finite at step {step}: use a learning rate below "
                f"{self.args.learning_rate:g}, or a smaller weight, in another folder"
            )

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # it is not known, since the prompt is shared


class _PromptTrainer(TSLossMixin, _AnswerTrainer):
    """The training of one run, and all that it writes to its folder but checkpoints and record."""

    def __init__(
        self,
        config: TuneConfig,
        arguments: TrainingArguments,
        task: Task,
        model: Any,
        splits: Sequence[Sequence[EncodedItem]],
        progress: Progress | None,
    ) -> None:
        self.config = config
        self.folder = Path(config.out)
        self.task = task
        self.train_items, self.test_items, self.validation_items = splits
        self.choices = Choices(item.answer for split in splits for item in split)
        self.progress = progress
        self.metrics_log: MetricsLog | None = None
        self.step_began = self.spent_before = 0.0
        self.recorder = PromptTopologyCallback(
            self.folder / RECORD,
            h1_every=config.eval_every,
            points_every=config.eval_every,
            metadata={"model": config.model},
            log=(),
        )
        early = [EarlyStoppingCallback(config.patience)] if config.patience else []
        callbacks: list[Any] = [self.recorder, *early, _Diary(self)]
        use_cache = getattr(model.config, "use_cache", None)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=list(self.train_items),
            eval_dataset=list(self.test_items),
            data_collator=lambda items: {"items": items},
            callbacks=callbacks,
            ts_loss=config.make_loss(),
            ts_weight=config.weight or 0.0,
        )
        # The Trainer switches the cache off; the next run is to find the model unchanged.
        model.config.use_cache = use_cache
        self.remove_callback(PrinterCallback)

    def run(self) -> TuneResult:
        """Train from the newest checkpoint, or from the start, to the end; save the adapter."""
        writes = self.args.process_index == 0
        checkpoint = newest_checkpoint(self.folder, clean=writes)
        begun = int(checkpoint.name.split("-")[1]) if checkpoint else None
        if writes and begun is None:
            # Nothing is kept of a run that was killed before its first checkpoint.
            (self.folder / RECORD).unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            if writes:
                self.metrics_log = stack.enter_context(
                    contextlib.closing(MetricsLog(self.folder, begun))
                )
            if begun is None:
                self._train(None)
            else:
                self.share_prompt = read_metrics(self.folder)[0]["share_prompt"]
                self._report({"kind": "resume", "step": begun})
                if begun >= self.config.steps or self._was_out_of_patience(str(checkpoint)):
                    self._load_from_checkpoint(str(checkpoint))
                else:
                    self._train(str(checkpoint))
            if writes:
                with whole_folder(self.folder / "adapter") as temporary:
                    self._save(str(temporary))
        reference, *lines = read_metrics(self.folder)
        final = [line for line in lines if line["kind"] == "eval"][-1]
        prompt = prompt_clouds(self.model).detach()[0].cpu().clone()
        return TuneResult(self.folder, prompt, reference | final, begun or 0)

    def _train(self, checkpoint: str | None) -> None:
        with _deferred_interrupt() as self.interrupted:
            self.train(resume_from_checkpoint=checkpoint)
        step = self.state.global_step
        if step == 0:
            raise ValueError(
                f"the training ended without a step: {len(self.train_items)} training items give "
                f"no batch of {self.config.batch_size} with {dict(self.config.trainer)}"
            )
        if self.interrupted():
            raise TuningInterrupted(
                f"interrupted after step {step} of {self.config.steps}; a checkpoint is in "
                f"{self.folder}: the same command goes on from there"
            )
        if step < self.config.steps:
            self._report({"kind": "end", "step": step})

    def _was_out_of_patience(self, checkpoint: str) -> bool:
        """Whether the run had been stopped early at this checkpoint: more steps change nothing."""
        if self.config.patience is None:
            return False
        state = TrainerState.load_from_json(str(Path(checkpoint, "trainer_state.json")))
        kept = state.stateful_callbacks["EarlyStoppingCallback"]
        counter: int = kept["attributes"]["early_stopping_patience_counter"]
        return counter >= self.config.patience

    def _report(self, record: dict[str, Any]) -> None:
        if self.progress is not None and self.metrics_log is not None:
            self.progress(record)

    def write(self, record: dict[str, Any]) -> None:
        if self.metrics_log is not None:
            self.metrics_log.write(record)
            self._report(record)

    def begin(self) -> None:
        """Measure what is measured once, before the first step."""
        base = self.model.get_base_model().eval()
        # The bare base model gives the rates: peft wraps it without changing it.
        zero_shot = evaluate(base, self.test_items, self.choices)
        self.share_prompt = can_share_prompt(self.model.eval(), self.train_items)
        self.write(
            {
                "kind": "reference",
                "majority_rate": self.task.majority_rate,
                **{f"zero_shot_{name}": value for name, value in zero_shot.items()},
                "train_items": len(self.train_items),
                "test_items": len(self.test_items),
                "share_prompt": self.share_prompt,
            }
        )
        self.evaluate()
        self.save_prompt(0)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Write a line with the accuracy on the test items, and on the validation items."""
        began = time.perf_counter()
        self.model.eval()
        record: dict[str, Any] = {"kind": "eval", "step": self.state.global_step}
        for prefix, items in (("", self.test_items), ("validation_", self.validation_items)):
            if items:
                found = evaluate(self.model, items, self.choices, share_prompt=self.share_prompt)
                record |= {f"{prefix}{name}": value for name, value in found.items()}
        record |= self._topology()
        self.write(record | {"seconds": round(time.perf_counter() - began, 4)})
        metrics = {f"eval_{n}": v for n, v in record.items() if n not in ("kind", "step")}
        metrics["eval_loss"] = record["ce"]  # as the Trainer and its schedulers call it
        super().log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        if self.control.should_training_stop:
            # This stands behind all callbacks, so that an early stop always has a checkpoint.
            self.control.should_save = True
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log(logs, *args, **kwargs)
        if "loss" not in logs:
            return
        self._refuse_divergence("prompt", prompt_clouds(self.model), self.state.global_step)
        terms = {n.removeprefix("tsloss/"): v for n, v in logs.items() if n.startswith("tsloss/")}
        record = {
            "kind": "step",
            "step": self.state.global_step,
            "epoch": math.ceil(self.state.epoch or 1),
            "ce": terms.pop("task_loss"),
            "loss": logs["loss"],
            "tsloss": terms.pop("total"),
            "terms": terms,
            **self._topology(),
            "grad_norm": float(logs["grad_norm"]),
            "seconds": round(time.perf_counter() - self.step_began, 4),
            "loss_seconds": round(self.spent_on_topology() - self.spent_before, 6),
        }
        self.write(record)
        # After the step's line, so that a checkpoint of this step finds it.
        if self.interrupted() and self.state.global_step < self.state.max_steps:
            self.control.should_save = self.control.should_training_stop = True

    def spent_on_topology(self) -> float:
        """Return the seconds that the term, with its gradient, and the record have taken so far."""
        return self.ts_seconds + self.recorder.seconds

    def save_prompt(self, epoch: int) -> None:
        """Write `prompts/soft_prompt_epoch_NNN.pt`, a float32 tensor (1, N, D); 000 is the
        start."""
        prompt = prompt_clouds(self.model)[:1].detach().cpu().contiguous().clone()
        if self.args.process_index:
            return
        path = self.folder / PROMPTS / f"soft_prompt_epoch_{epoch:03d}.pt"
        path.parent.mkdir(exist_ok=True)
        # Through a handle: given a path, torch writes the file's name, here a temporary one.
        with whole_file(path) as temporary, temporary.open("wb") as handle:
            torch.save(prompt, handle)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.metrics_log is not None:
            self.metrics_log.sync()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.process_index == 0:
            finish_checkpoint(self.folder, self.state.global_step)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(str(output_dir))
        # Without save_embedding_layers=False, peft may ask the Hub whether the vocabulary was
        # resized. It also adds the template of a model card, with nothing filled in.
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)

    def _topology(self) -> dict[str, float]:
        """The functionals of H0 that are worth watching: `mean_death` in the units of the
        embedding, two that are scale-free, and an entropy in nats, at most ln(N - 1)."""
        clouds = prompt_clouds(self.model).detach()
        deaths = (self.recorder.last_barcode.of(clouds) or h0_persistence(clouds)).deaths
        return {
            function.__name__: float(function(deaths).mean())
            for function in (
                barcode.mean_death,
                barcode.coefficient_of_variation,
                barcode.redundancy,
                barcode.persistent_entropy,
            )
        }


class _Diary(TrainerCallback):
    """Tells the trainer of a run when something has to be measured or written."""

    def __init__(self, trainer: _PromptTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self.trainer.begin()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.step_began = time.perf_counter()
        self.trainer.spent_before = self.trainer.spent_on_topology()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.epoch == int(state.epoch):
            self.trainer.save_prompt(int(state.epoch))
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT is noted instead of raised; yields a function that says whether it was.

    An interrupt in the middle of an optimizer's step would leave a prompt that no uninterrupted
    run ever has. A second SIGINT is raised at once. Only the main thread can set this up;
    elsewhere nothing changes.
    """
    noted = False

    def note(number: int, frame: Any) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        # None: the handler was set outside Python, and cannot be put back from here.
        signal.signal(signal.SIGINT, previous if previous is not None else signal.SIG_DFL)
