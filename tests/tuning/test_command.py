"""`tsloss tune` from end to end on the tiny model, killed and resumed as a user would."""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_llama import NEEDS
from torch_threads import torch_threads

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)

from safetensors.torch import load_file

from tsloss_fast.cli import main
from tsloss_fast.tuning.run_folder import read_metrics

SIZES = ["--train-size", "20", "--test-size", "10", "--virtual-tokens", "6"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the child processes: bits are promised for one thread count."""
    with torch_threads(1):
        yield


def test_tune_with_a_control_writes_and_names_everything(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "first"
    command = ["tune", "--model", str(tiny_model_dir), "--steps", "12", "--eval-every", "6"]
    command += ["--out", str(out), "--control", *SIZES]
    assert main(command) == 0
    printed, progress = capsys.readouterr()

    named = [line.removeprefix("wrote ") for line in printed.splitlines() if "wrote " in line]
    assert str(out / "plot.png") in named
    assert str(out / "control" / "metrics.jsonl") in named
    assert all(Path(name).exists() for name in named)

    table = printed.split("\n\n")[0].splitlines()
    assert table[0].split() == ["tsloss", "control"]
    rows = {line[:29].strip(): line[29:].split() for line in table[1:]}
    for folder, column in ((out, 0), (out / "control", 1)):
        final = [r for r in read_metrics(folder) if r["kind"] == "eval"][-1]
        assert rows["accuracy"][column] == f"{final['accuracy']:.3f}"
        assert rows["mean death"][column] == f"{final['mean_death']:.3f}"
        reference = read_metrics(folder)[0]
        assert rows["majority rate"][column] == f"{reference['majority_rate']:.3f}"
    assert {"restricted accuracy", "zero-shot accuracy", "coefficient of variation"} <= rows.keys()
    steps = [r["loss_seconds"] for r in read_metrics(out) if r["kind"] == "step"]
    assert rows["of it ms in loss and record"][0] == f"{1000 * statistics.median(steps):.2f}"

    assert progress.count("loading ") == 1, "the model is loaded once for both runs"
    evaluations = [line for line in progress.splitlines() if ": accuracy " in line]
    assert len(evaluations) == 6
    # The rates without tuning are printed once a run, with an explanation.
    (said, _) = [line for line in progress.splitlines() if "majority 0." in line]
    assert "share of test items whose answer is the most likely text" in said
    assert "restricted zero-shot 0." in said
    configs = [(folder / "config.json").read_text() for folder in (out, out / "control")]
    differ = [
        pair
        for pair in zip(*(text.splitlines() for text in configs), strict=True)
        if len(set(pair)) > 1
    ]
    assert differ == [
        ('    "loss": "tsloss",', '    "loss": "ce",'),
        ('    "weight": 10.0,', '    "weight": 0.0,'),
    ]
    assert json.loads(configs[1])["command"] == shlex.join(["tsloss", *command])

    # Again: nothing to do, the same table. Otherwise: refused in one line.
    assert main(command) == 0
    again, progress = capsys.readouterr()
    assert again == printed
    assert "resumed at step 12" in progress
    assert main([*command, "--lr", "0.5"]) == 1
    _, error = capsys.readouterr()
    assert error.count("\n") == 1
    assert "another configuration: lr (0.03 there, 0.5 here)" in error


@pytest.mark.slow
def test_an_interrupted_and_a_killed_command_go_on_to_the_same_prompt(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["tune", "--model", str(tiny_model_dir), "--steps", "250", "--eval-every", "250"]
    options += ["--checkpoint-every", "25", *SIZES, "--out"]

    def start_and_send(number: int, lines: int) -> tuple[int, str]:
        """Start the command, and send a signal when its log has grown past `lines`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tsloss_fast", *options, str(out)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        log, end = out / "metrics.jsonl", time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if log.exists() and log.read_bytes().count(b"\n") > lines:
                process.send_signal(number)
                break
            time.sleep(0.005)
        return process.wait(120), process.communicate()[1]

    out = tmp_path / "run"
    code, error = start_and_send(signal.SIGINT, 40)
    assert code == 130
    assert "the same command goes on from there" in error
    assert "Traceback" not in error
    interrupted_at = len(read_metrics(out))
    code, _ = start_and_send(signal.SIGKILL, interrupted_at + 60)
    assert code == -signal.SIGKILL
    assert len(read_metrics(out)) < 250

    assert main([*options, str(out)]) == 0
    assert "resumed at step" in capsys.readouterr().err
    assert main([*options, str(tmp_path / "untouched")]) == 0
    prompts, logs = [], []
    for folder in (out, tmp_path / "untouched"):
        prompts.append(load_file(folder / "adapter" / "adapter_model.safetensors"))
        logs.append(
            [{k: v for k, v in r.items() if "seconds" not in k} for r in read_metrics(folder)]
        )
    assert torch.equal(prompts[0]["prompt_embeddings"], prompts[1]["prompt_embeddings"])
    assert logs[0] == logs[1]


def test_help_has_an_example_and_the_defaults_and_does_not_import_transformers() -> None:
    script = (
        "import sys; from tsloss_fast.cli import main\n"
        "try: main(['tune', '--help'])\n"
        "finally: print(sorted({'transformers', 'peft', 'matplotlib'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "example: tsloss tune --model smollm2" in shown.stdout
    assert "learning rate of AdamW (default: 0.03)" in shown.stdout
    assert shown.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--model", "no/such/model"], 1, "cannot load the model 'no/such/model'"),
        (["--task", "none.jsonl"], 1, "the task 'none.jsonl' is neither a file nor 'boolean'"),
        (["--train-size", "9999"], 1, "only 2048 exist with 3 operands"),
        (["--device", "cuda:99"], 1, "device must be one of this machine, got 'cuda:99'"),
        (["--steps", "0"], 1, "steps must be an integer of at least 1, got 0"),
        (["--steps", "many"], 2, "argument --steps: invalid int value: 'many'"),
        (["--loss", "mse"], 2, "argument --loss: invalid choice: 'mse'"),
        (["--step", "3"], 2, "unrecognized arguments: --step 3"),
        (["--seeds", "0"], 2, "--seeds must be at least 1, got 0"),
        (["--trainer", "bf16"], 2, "argument --trainer: expected NAME=VALUE, got 'bf16'"),
        (["--trainer", "lrr=1"], 1, "TrainingArguments has no field 'lrr'"),
        (["--loss", "ce", "--control"], 2, "--loss ce already is"),
    ],
)
def test_errors_are_one_line_without_a_traceback(
    options: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        found = main(["tune", "--out", str(tmp_path / "run"), *options])
    except SystemExit as leave:
        found = leave.code
    printed, error = capsys.readouterr()
    assert found == code
    assert printed == ""
    (line,) = [line for line in error.splitlines() if "error: " in line]
    assert message in line
    assert "Traceback" not in error
    known_at_once = "loading" not in error
    assert known_at_once is (message[:4] != "cann")
    if known_at_once:
        assert not (tmp_path / "run").exists()
    if code == 1:
        assert set(error.splitlines()) - {line} <= {"loading no/such/model …"}


def test_seeds_are_run_beside_their_controls_and_compared_in_pairs(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seeds"
    command = ["tune", "--model", str(tiny_model_dir), "--steps", "4", "--out", str(out), *SIZES]
    assert main([*command, "--control", "--seeds", "3", "--seed", "5"]) == 0
    printed, _ = capsys.readouterr()
    rows = [line.split() for line in printed.split("\n\n")[0].splitlines()]
    assert [row[0] for row in rows[1:]] == ["5", "6", "7", "mean", "±"]
    ends = {}
    for seed in (5, 6, 7):
        for name, folder in (("tsloss", ""), ("control", "control")):
            lines = read_metrics(out / f"seed-{seed:03d}" / folder)
            ends[seed, name] = [line for line in lines if line["kind"] == "eval"][-1]
    differences = []
    for row in rows[1:4]:
        ours, control = ends[int(row[0]), "tsloss"], ends[int(row[0]), "control"]
        difference = ours["ce"] - control["ce"]
        assert row[4:7] == [f"{ours['ce']:.3f}", f"{control['ce']:.3f}", f"{difference:+.3f}"]
        differences.append(difference)
    assert rows[4][6] == f"{statistics.fmean(differences):+.3f}"
    assert rows[5][-4] == f"{statistics.stdev(differences) / 3**0.5:.3f}"
    assert (out / "seed-006" / "plot.png").exists()


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["tune", "--out", str(tmp_path / "file" / "run")]) == 1
    _, error = capsys.readouterr()
    assert f"cannot write {tmp_path}/file/run: {tmp_path}/file is no folder" in error
    assert "use another folder" in error
    assert "loading" not in error


@pytest.mark.slow
def test_two_processes_train_the_prompt_of_one_with_twice_the_batch(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    prompts = []
    for processes, batch in ((2, 4), (1, 8)):
        out = tmp_path / str(processes)
        options = ["-m", "tsloss_fast", "tune", "--model", str(tiny_model_dir), "--out", str(out)]
        # 16 items: the batches of both are the same, whichever process takes an item.
        options += ["--steps", "6", "--train-size", "16", "--test-size", "10", "--lr", "0.01"]
        options += ["--virtual-tokens", "6", "--batch-size", str(batch), "--weight-decay", "0"]
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        done = subprocess.run(
            [*start, "--nproc-per-node", str(processes), *options],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("median seconds a step") == 1
        prompts.append(load_file(out / "adapter/adapter_model.safetensors")["prompt_embeddings"])
        assert [r["step"] for r in read_metrics(out) if r["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(prompts[0], prompts[1], rtol=1e-3, atol=1e-4)


def test_a_control_that_cannot_run_is_refused_before_the_run_beside_it(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["tune", "--model", str(tiny_model_dir), "--steps", "2", *SIZES]
    other = [*options, "--loss", "ce", "--lr", "0.5", "--out", str(out / "control")]
    assert main(other) == 0
    capsys.readouterr()
    assert main([*options, "--control", "--out", str(out)]) == 1
    _, error = capsys.readouterr()
    assert "another configuration: lr (0.5 there, 0.03 here)" in error
    assert "loading" not in error
    assert not (out / "metrics.jsonl").exists()
