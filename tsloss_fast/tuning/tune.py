"""Prompt tuning of a frozen language model with cross-entropy and a topological loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import tsloss_fast
from tsloss_fast.tuning.compatibility import refuse_other_models
from tsloss_fast.tuning.config import TuneConfig
from tsloss_fast.tuning.models import load_model, model_digest
from tsloss_fast.tuning.run import Progress, Run, TuneResult, TuningInterrupted
from tsloss_fast.tuning.run_folder import check_configuration, claim, exclusive
from tsloss_fast.tuning.tasks import load_task

__all__ = ["Progress", "TuneConfig", "TuneResult", "TuningInterrupted", "tune"]


def tune(
    config: TuneConfig,
    progress: Progress | None = None,
    *,
    load: Callable[[], tuple[Any, Any]] | None = None,
) -> TuneResult:
    """Tune a soft prompt; go on from the newest checkpoint if the folder holds one.

    The base model is frozen and in eval mode; the prompt is the only parameter. Per step, with the
    prompt's cloud P: loss = cross-entropy of the answer tokens + weight · loss term(P). The order
    of the data is a function of (seed, epoch) alone, and no other randomness enters, so a run that
    was killed at any moment and started again ends with the same bits as one that was not.

    A run goes on only as what it began as. The folder remembers the settings, a digest of the items
    and of their tokens, a digest of the model's weights and configuration, and the minor versions
    of tsloss_fast, torch and transformers; if one of them differs, the error names it. The model's
    files may be moved or copied meanwhile. Patch versions, the processor and the number of threads
    are not compared, and may change the last bits.

    `metrics.jsonl` gets a line a step (`kind` "step": ce, loss, tsloss, its unweighted terms and
    the topology of the prompt that the gradient was taken at), a line an evaluation ("eval": of
    the prompt after that step) and a first line ("reference": rates without any tuning). Only
    `seconds` differs between two runs with the same settings.

    Args:
        config: the settings.
        progress: called with each record as it is written, and once with
            `{"kind": "resume", "step": …}` on resuming.
        load: gives (model, tokenizer) in place of `load_model(config.model)`, for example to load
            once for several runs. Called when nothing else can go wrong early. The model is not
            changed, but its parameters stop asking for gradients.

    Raises:
        RunFolderError: the folder belongs to another configuration, model or process, was begun by
            a version that kept no digest of the model, or is damaged.
        TuningInterrupted: after an interrupt (SIGINT); nothing that was computed is lost.
        FloatingPointError: the loss became NaN or infinite.
        ValueError: the task has too few items, or none of that difficulty; an item is too long for
            the model; the model is an encoder-decoder, or its weights are not in memory.
        FileNotFoundError, ModuleNotFoundError: as `load_task`.
        ModelNotAvailableError: as `load_model`.
    """
    report: Progress = progress or (lambda record: None)
    task = load_task(
        config.task,
        train_size=config.train_size,
        test_size=config.test_size,
        validation_size=config.validation_size,
        seed=config.seed,
        difficulty=config.difficulty,
    )
    folder = Path(config.out)
    with exclusive(folder):
        identity = config.identity() | {"task_digest": task.digest}
        versions = {
            "tsloss_fast": tsloss_fast.__version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        }
        # Before the model is loaded, which takes its time; written only when everything is there,
        # so that a mistyped name does not stay in the folder.
        check_configuration(folder, identity, versions)
        model: Any
        model, tokenizer = load() if load is not None else load_model(config.model)
        refuse_other_models(model)
        digest = model_digest(model)
        run = Run(config, folder, task, model.to(config.device), tokenizer, report)
        claim(folder, identity, versions, {"model": digest, "tokens": run.tokens_digest})
        return run.finish()
