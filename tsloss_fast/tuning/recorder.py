"""The record of a model's clouds during its training, for the callbacks of any trainer."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from tsloss_fast.analysis.record import RECORD
from tsloss_fast.analysis.record.measures import LOGGED
from tsloss_fast.analysis.record.tracker import TopologyTracker, schedule
from tsloss_fast.analysis.record.writer import put_aside
from tsloss_fast.tuning.clouds import (
    Clouds,
    LastBarcode,
    cloud_names,
    cloud_parts,
    one_batch,
    prompt_clouds,
    unwrap,
)

__all__ = ["TopologyRecorder"]

# The scale, which the loss does not see, and the two numbers that it does: its connectivity is the
# square of the coefficient of variation.
SHOWN = ("mean_lifetime", "coefficient_of_variation", "redundancy")


class TopologyRecorder:
    """The shared part of the callbacks for transformers and for Lightning; `PromptTopologyCallback`
    explains the arguments. `seconds` is the time that recording has taken on this process."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        clouds: Callable[[Any], Clouds] = prompt_clouds,
        names: Sequence[str] | None = None,
        log: Sequence[str] = SHOWN,
        **options: Any,
    ) -> None:
        if "resume" in options or "resume_points" in options:
            raise TypeError("resume: the callback takes the step from the Trainer")
        if hasattr(clouds, "attach"):
            raise TypeError(
                "clouds: hidden states are there in a training step alone, and a record begins "
                "before the first one; give it a function of the parameters, such as prompt_clouds"
            )
        self._log = LOGGED if log == "all" else (log,) if isinstance(log, str) else tuple(log)
        if unknown := [name for name in self._log if name not in LOGGED]:
            raise ValueError(f"log: expected 'all' or names of {', '.join(LOGGED)}, got {unknown}")
        self._path, self._clouds, self._options = path, clouds, {"clouds": names} | options
        self.__setstate__({})

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: the open record and its thread belong to this process."""
        own = ("tracker", "last_barcode", "seconds", "_newest", "_recorded", "_due")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.tracker: TopologyTracker | None = None
        self.last_barcode = LastBarcode()
        self.seconds = 0.0
        self._newest: dict[str, float] = {}
        self._recorded: int | None = None
        # Every process keeps the schedule: they gather a sharded prompt together.
        self._due = schedule("every", self._options.get("every", 1))

    def watches(self, clouds: Callable[[Any], Clouds]) -> bool:
        """Whether the clouds that this function gives are those that are recorded."""
        return self._clouds == clouds

    def _begin(self, model: nn.Module, step: int, folder: str | None, writes: bool) -> None:
        """Open the record of a training that begins, or goes on, at a step."""
        start = perf_counter()
        model = unwrap(model)
        # On every process: what is sharded is gathered by all of them together.
        points, lengths = self._points(model)
        options = dict(self._options)
        if options["clouds"] is None and self._clouds is prompt_clouds:
            with _without_dropout(model):
                options["clouds"] = cloud_names(model)
        self._newest, self._recorded = {}, step
        if not writes:
            return
        self._finish("close")
        file = Path(str(folder if self._path is None else self._path))
        # The Trainer's own folder may have any name.
        if self._path is None or file.suffix != ".arrows":
            file = file / RECORD
        if not step and file.exists():
            aside = put_aside(file)
            message = f"{file} is the record of another training: it is now {aside.name}"
            warnings.warn(message, UserWarning, stacklevel=3)
        name = getattr(getattr(model, "config", None), "_name_or_path", None) or None
        options["metadata"] = {"model": name} | dict(options.get("metadata") or {})
        # The tracker takes the points of the last step without their numbers.
        last = points if step and lengths is None else None
        self.tracker = TopologyTracker(file, resume=step or None, resume_points=last, **options)
        if not step:
            self._take(self.tracker, 0, points, lengths, True)
        self.seconds += perf_counter() - start

    def _record(self, model: nn.Module, step: int, keep: bool = False) -> None:
        start = perf_counter()
        points, lengths = self._points(unwrap(model))
        self._recorded, tracker = step, self.tracker
        if tracker is not None:
            self._guarded(lambda: self._take(tracker, step, points, lengths, keep))
        self.seconds += perf_counter() - start

    def _keep(self, model: nn.Module, step: int) -> None:
        """Record the last step of a training, or add its points and H1 to what is recorded."""
        if self._recorded != step:
            self._record(model, step, keep=True)
        else:
            self._finish("keep_last")

    def _take(
        self, tracker: TopologyTracker, step: int, points: Tensor, lengths: Any, keep: bool
    ) -> None:
        euclidean = self._options.get("metric", "euclidean") == "euclidean"
        h0 = self.last_barcode.of(points, lengths) if euclidean else None
        found = tracker.record(step, points, lengths, keep=keep, h0=h0) or {}
        self._newest = {f"topology/{name}": found[name] for name in self._log if name in found}

    def _finish(self, action: str) -> None:
        """`flush` before a checkpoint, `keep_last`, or `close` at the end, if there is a record."""
        if self.tracker is not None:
            self._guarded(getattr(self.tracker, action))

    def _guarded(self, action: Callable[[], None]) -> None:
        """Watching must not end the training: a full disk ends the record alone."""
        try:
            action()
        except Exception as error:
            self.tracker, self._newest = None, {}
            message = f"the topology is not recorded from here on: {type(error).__name__}: {error}"
            warnings.warn(message, UserWarning, stacklevel=3)

    @torch.no_grad()
    def _points(self, model: nn.Module) -> tuple[Tensor, list[int] | None]:
        with _without_dropout(model):
            return one_batch(cloud_parts(self._clouds(model)))


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Put the prompt's encoder into eval mode, so that dropout neither changes what is recorded nor
    draws random numbers."""
    encoder = getattr(model, "prompt_encoder", None)
    training = [m for m in encoder.modules() if m.training] if encoder is not None else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
