"""The folder of a run: one writer at a time, one configuration, a resumable log, checkpoints.

config.json                         the settings, digests of model and tokens, the command line
metrics.jsonl                       a line a step and a line an evaluation
topology.arrows                     the record of PromptTopologyCallback
checkpoints/checkpoint-40/          the Trainer's: peft's adapter, optimizer, generators, state
prompts/soft_prompt_epoch_002.pt    a tensor (1, N, D), the format of the TSLoss authors
adapter/                            the final prompt, for `PeftModel.from_pretrained`
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tsloss_fast import _files
from tsloss_fast._files import (
    HeldElsewhere,
    not_a_link,
    read_json_lines,
    remove_folder,
    remove_temporaries,
    sync,
    whole_file,
)
from tsloss_fast.analysis.record import RECORD

__all__ = [
    "CHECKPOINTS",
    "METRICS",
    "PROMPTS",
    "MetricsLog",
    "RunFolderError",
    "check_configuration",
    "claim",
    "exclusive",
    "finish_checkpoint",
    "forget_untrained",
    "newest_checkpoint",
    "read_metrics",
]

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
PROMPTS = "prompts"
# The last file of a checkpoint: the SHA-256 of each of its files.
FINISHED = "finished.json"
# The newest checkpoint, and one to go back to should a disk have damaged it.
KEEP = 2
# What is kept of the model beside its name, in the words of a message.
DIGESTS = {"model": "the model's weights or configuration", "tokens": "the tokens of the items"}


class RunFolderError(RuntimeError):
    """A run folder cannot be used for this run; the message says why and what to do."""


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes, as `_files.exclusive`. It is made if it is missing,
    and removed at the end, with the parents made for it, if nothing was written to it.

    Raises:
        RunFolderError: another process holds it, or nothing can be written there.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_files.exclusive(folder, passing=True))
        except HeldElsewhere as holder:
            raise RunFolderError(
                f"{folder} is being written by {holder}: wait for it to end, or use another folder"
            ) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise  # a link in the folder, which the message names
            raise RunFolderError(
                f"nothing can be written to {folder} ({error.strerror}): use another folder"
            ) from error
        try:
            yield
        finally:
            stack.close()
            for empty in made[1:] if made and not made[0].exists() else []:
                with contextlib.suppress(OSError):
                    empty.rmdir()


def check_configuration(
    folder: Path,
    config: Mapping[str, Any],
    made_with: Mapping[str, str],
    digests: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Return the kept configuration if the folder belongs to this run, or None if it is unused.

    Args:
        folder: held by `exclusive`.
        config: everything that the result depends on, as JSON can hold it. The name of the model
            counts only if its digest is another one, because files can be moved. More `steps` than
            the folder has extend its run, if its learning rate is constant.
        made_with: full versions, of which major and minor are compared.
        digests: those of `DIGESTS`; None as long as the model is not loaded.

    Raises:
        RunFolderError: the folder belongs to a run with another configuration (the message names
            what differs, with both values) or to one of an older version, or holds a log without a
            configuration.
    """
    file = folder / CONFIG
    if not file.exists():
        # These are removed or cut when a run begins again, and here they may be anyone's.
        for name in (METRICS, RECORD, CHECKPOINTS, PROMPTS):
            if (folder / name).exists():
                raise RunFolderError(
                    f"{folder} holds {name} but no {CONFIG}, so its run is not known: use another "
                    "folder"
                )
        return None
    try:
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        there, versions = dict(kept["config"]), dict(kept["made_with"])
        found = dict(kept.get("digests", {}))
        if found and found.keys() != DIGESTS.keys():
            raise ValueError(f"its digests are those of {', '.join(found)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{file} cannot be read ({error}): restore it, or use another folder"
        ) from error
    if not found or "trainer" not in there:
        raise RunFolderError(
            f"{folder} holds a run of an older version of tsloss_fast, which this one cannot go on "
            "with: use another folder"
        )
    here = json.loads(json.dumps(dict(config)))
    if digests is None or digests["model"] == found["model"]:
        here["model"] = there.get("model")
    constant = here["trainer"].get("lr_scheduler_type", "constant") == "constant"
    if constant and here["steps"] > there.get("steps", 0):
        there["steps"] = here["steps"]
    pairs = [(name, there.get(name), here.get(name)) for name in sorted({*there, *here})]
    pairs += [
        (f"{DIGESTS[name]}, SHA-256", str(found[name])[:12], digest[:12])
        for name, digest in (digests or {}).items()
    ]
    for name, version in made_with.items():
        same = str(versions.get(name)).split(".")[:2] == version.split(".")[:2]
        pairs.append((f"the version of {name}", version if same else versions.get(name), version))
    differ = [f"{n} ({json.dumps(a)} there, {json.dumps(b)} here)" for n, a, b in pairs if a != b]
    if differ:
        raise RunFolderError(
            f"{folder} holds a run with another configuration: {', '.join(differ)}. Use another "
            "folder for this run, or restore what is there to resume that one"
        )
    return kept


def claim(
    folder: Path,
    config: Mapping[str, Any],
    made_with: Mapping[str, str],
    digests: Mapping[str, str],
    command: str | None = None,
) -> None:
    """Write the configuration: from now on the folder is this run's. The errors and the other
    arguments are those of `check_configuration`.

    Args:
        command: the command line, if the run has one. A run that goes on keeps its first.
    """
    kept = check_configuration(folder, config, made_with, digests)
    if kept is not None and kept["config"]["steps"] == config["steps"]:
        return
    record = kept or {"config": dict(config), "digests": digests, "made_with": made_with}
    if kept is None and command is not None:
        record["command"] = command
    record["config"]["steps"] = config["steps"]
    with whole_file(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


class MetricsLog:
    """Appends JSON Lines to the run's log, after cutting off the lines of later steps.

    Args:
        folder: held by `exclusive`.
        step: that of the checkpoint to resume from, so that the lines of steps that are run again
            never stand twice; None for a fresh run.

    Raises:
        RunFolderError: the log ends before the checkpoint, or is damaged.
    """

    def __init__(self, folder: Path, step: int | None) -> None:
        path = folder / METRICS
        # Append mode creates the file, and lets it be cut.
        self._file = open(path, "ab", buffering=0, opener=not_a_link)  # noqa: SIM115
        try:
            records = read_metrics(folder) if step is not None else []
            kept = [record for record in records if record.get("step", 0) <= (step or 0)]
            if step is not None:
                _check_lines(kept, step)
            lines = path.read_bytes().split(b"\n")[: len(kept)]
            self._file.truncate(sum(len(line) + 1 for line in lines))
        except (ValueError, KeyError, TypeError) as error:
            self._file.close()
            raise RunFolderError(
                f"{path} does not fit the checkpoint of step {step} ({error}): restore it, or "
                "start again in another folder"
            ) from error
        sync(folder)

    def write(self, record: Mapping[str, Any]) -> None:
        # One unbuffered write a line: a kill leaves at most one half line, cut off on resume.
        self._file.write(json.dumps(dict(record), allow_nan=False).encode() + b"\n")

    def sync(self) -> None:
        """Force the log to the disk."""
        sync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _check_lines(records: Sequence[Mapping[str, Any]], step: int) -> None:
    """Raise ValueError or KeyError unless these are the lines of a run up to a step."""
    steps = [record["step"] for record in records if record["kind"] == "step"]
    last = max(steps, default=0)
    if last < step:
        raise ValueError(f"it ends after step {last}")
    if steps != list(range(1, step + 1)):
        raise ValueError("a step is missing or stands twice")
    if not any(record["kind"] == "eval" for record in records):
        raise ValueError("it holds no evaluation")
    if records[0]["kind"] != "reference" or "share_prompt" not in records[0]:
        raise ValueError("it does not begin with the rates without tuning and share_prompt")


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a run's log, in order, without a half line at the end.

    Raises:
        FileNotFoundError: the folder has no log.
        ValueError: a line before the last is no JSON object.
    """
    return read_json_lines(Path(folder) / METRICS)


def finish_checkpoint(run: Path, step: int) -> None:
    """Mark the checkpoint of a step as whole, once all its files are written and on the disk; then
    remove all but the newest two."""
    folder = run / CHECKPOINTS / f"checkpoint-{step}"
    files = sorted(path for path in folder.iterdir() if path.name != FINISHED)
    for file in files:
        sync(file)
    with whole_file(folder / FINISHED) as temporary:
        temporary.write_text(json.dumps({file.name: _digest(file) for file in files}, indent=1))
    sync(folder.parent)
    for old in _checkpoints(run)[:-KEEP]:
        remove_folder(old)


def forget_untrained(run: Path) -> None:
    """Remove what a run wrote to its folder, if it ended before its first step was logged."""
    with contextlib.suppress(FileNotFoundError):
        if any(record["kind"] == "step" for record in read_metrics(run)):
            return
    for place in (run / CHECKPOINTS, run / PROMPTS):
        remove_folder(place)
    # The configuration goes last: without it, what a kill left here would be no known run's.
    for name in (METRICS, RECORD, CONFIG):
        (run / name).unlink(missing_ok=True)


def _checkpoints(run: Path) -> list[Path]:
    """The folders of checkpoints, whole or not, by step. Other names are the user's."""
    found = [
        path
        for path in (run / CHECKPOINTS).glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()
    ]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def newest_checkpoint(run: Path, clean: bool = True) -> Path | None:
    """Return the newest checkpoint that was finished, or None.

    Args:
        run: the run's folder.
        clean: first remove what a killed process left: unfinished checkpoints, those that were to
            be pruned, and temporary files.

    Raises:
        RunFolderError: one of its files is not what was written.
    """
    found = _checkpoints(run)
    finished = [path for path in found if (path / FINISHED).is_file()]
    if clean:
        for place in (run, run / CHECKPOINTS, run / PROMPTS, *found):
            remove_temporaries(place)
        for old in set(found) - set(finished[-KEEP:]):
            remove_folder(old)
    if not finished:
        return None
    folder = finished[-1]
    try:
        for name, digest in json.loads((folder / FINISHED).read_text(encoding="utf-8")).items():
            if _digest(folder / name) != digest:
                raise ValueError(f"{name} is not what was written")
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"the checkpoint {folder} cannot be read ({error}): delete that folder to go on from "
            f"{finished[-2].name if len(finished) > 1 else 'the start'}"
        ) from error
    return folder


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
