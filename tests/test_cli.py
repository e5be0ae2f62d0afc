"""The command `tsloss`: help without delay, errors of one line, the right command called."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from tsloss_fast import __version__, cli, doctor
from tsloss_fast._files import check_writable_folder
from tsloss_fast._terminal import require

# Modules without which a command does not even show its help.
NEEDS = {
    "tune": ("transformers", "peft", "accelerate", "safetensors", "pyarrow"),
    **dict.fromkeys(("analyze", "plot", "report", "barcode"), ("pyarrow",)),
    **dict.fromkeys(("compare", "bench"), ("tsloss_fast.benchmarks",)),
    "doctor": (),
}
HELP = """
import sys
from tsloss_fast.cli import main
try:
    sys.exit(main(sys.argv[1:]))
finally:
    print(sorted({"torch", "numpy", "transformers", "matplotlib"} & sys.modules.keys()))
"""


def run(*arguments: str) -> int | str | None:
    try:
        return cli.main(arguments)
    except SystemExit as leave:
        return leave.code


def needs(command: str) -> None:
    for module in NEEDS[command]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")


def python(code: str, *arguments: str) -> str:
    """Standard output of a process, with its error if there is one."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_without_arguments_it_shows_the_help_which_lists_every_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in NEEDS)
    assert "example: tsloss tune" in shown
    for arguments in ([], ["--debug"]):
        assert run(*arguments) == 0
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize("command", NEEDS)
def test_help_of_every_command_has_an_example_and_does_not_wait_for_torch(command: str) -> None:
    needs(command)
    shown = python(HELP, command, "--help")
    assert shown.startswith(f"usage: tsloss {command}")
    assert f"example: tsloss {command}" in shown
    assert shown.endswith("\n[]\n")
    assert bool(re.search(r"-o \w+, --out \w+", shown)) == (command != "doctor")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], "(in every command)"),
        (["--version"], f"tsloss_fast {__version__}\n"),
        (["analyse", "x"], "error: there is no command 'analyse'; did you mean analyze?\n"),
        (["nope"], "error: there is no command 'nope'; tsloss --help lists the commands\n"),
        (["--nope"], "usage: tsloss [-h] [--version] [--debug] COMMAND ...\n"),
        (["doctor", "extra"], "usage: tsloss doctor [-h] [--json]\n"),
    ],
)
def test_what_needs_no_command_does_not_wait_for_torch(arguments: list[str], shown: str) -> None:
    said = python(HELP, *arguments)
    assert shown in said
    assert "[]\n" in said
    assert run(*arguments) == (0 if arguments[0] in ("--help", "--version") else 2)


def test_the_package_imports_torch_when_a_name_is_first_used_or_torch_is_there() -> None:
    lazy = """
import sys, tsloss_fast
assert set(tsloss_fast.__all__) <= set(dir(tsloss_fast))
assert not hasattr(tsloss_fast, "h0")
assert "torch" not in sys.modules
from tsloss_fast import *
from tsloss_fast import TSLoss, barcode, h0_persistence
import torch
assert h0_persistence is tsloss_fast.functional.h0_persistence
assert barcode is sys.modules["tsloss_fast.barcode"]
deaths = torch.compile(lambda x: tsloss_fast.h0_persistence(x).deaths, backend="eager")
print(deaths(torch.eye(2)).item() ** 2)
"""
    assert float(python(lazy)) == pytest.approx(2.0)
    # An exported program that is loaded next finds the operators.
    find_operator = "import torch, tsloss_fast; print(hasattr(torch.ops.tsloss_fast, 'h0'))"
    assert python(find_operator) == "True\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["doctor"]])
def test_a_terminal_may_lack_characters(
    encoding: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "report", lambda: {"name": "caf\udce9 λ…"})
    terminal = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run(*arguments) == 0
    assert terminal.errors == "strict"


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "extra"], ["--help"]])
def test_standard_streams_may_be_closed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def report() -> dict[str, str]:
        sys.stderr.write("a library writes what it likes")
        warnings.warn("to the user", UserWarning, stacklevel=1)
        return {"a": "b"}

    monkeypatch.setattr(doctor, "report", report)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert run(*arguments) == (2 if "extra" in arguments else 0)
    assert sys.stdout is None
    assert sys.stderr is None


def test_doctor_prints_its_report_as_aligned_lines_or_as_a_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"cpu": "fast", "a longer name": "value λ \x1b"}
    monkeypatch.setattr(doctor, "report", lambda: facts)
    assert run("doctor") == 0
    assert capsys.readouterr().out == "cpu            fast\na longer name  value λ \\x1b\n"
    assert run("doctor", "--json") == 0
    assert json.loads(capsys.readouterr().out) == facts


def test_a_command_gets_its_arguments_and_gives_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Sequence[str]] = []
    suite = types.ModuleType("suite")
    suite.main = lambda argv: calls.append(argv) or 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tsloss_fast.benchmarks.suite", suite)
    assert run("bench", "20x2048", "--quick") == 3
    assert run("--debug", "bench", "--threads", "2") == 3
    assert calls == [["20x2048", "--quick"], ["--threads", "2"]]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "error: two lines"),
        (FileNotFoundError(2, "No such file", "x"), "error: [Errno 2] No such file: 'x'"),
        (KeyError("name"), "error: KeyError: 'name' (--debug shows where)"),
        (MemoryError(), "error: MemoryError: no message (--debug shows where)"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_an_error_is_one_line_and_a_traceback_only_with_debug(
    error: BaseException,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> dict[str, str]:
        raise error

    monkeypatch.setattr(doctor, "report", fail)
    interrupted = isinstance(error, KeyboardInterrupt)
    assert run("doctor") == (130 if interrupted else 1)
    assert capsys.readouterr().err == f"tsloss: {line}\n"
    for arguments in [] if interrupted else [["--debug", "doctor"], ["doctor", "--debug"]]:
        with pytest.raises(type(error)):
            cli.main(arguments)


NASTY = "\x1b]0;title\x07 a\nb \x9b2J \u202e caf\udce9"


@pytest.mark.parametrize("raised", [None, ValueError(NASTY), KeyboardInterrupt(NASTY)])
def test_no_text_commands_the_terminal(
    raised: BaseException | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def report() -> dict[str, str]:
        warnings.warn(NASTY, UserWarning, stacklevel=1)
        if raised is not None:
            raise raised
        return {"value": NASTY}

    monkeypatch.setattr(doctor, "report", report)
    code = run("doctor")
    assert code == {type(None): 0, ValueError: 1}.get(type(raised), 130)
    assert run("doctor", NASTY) == 2
    shown = capsys.readouterr()
    assert not set("\x1b\x07\x9b\u202e\udce9") & set(shown.out + shown.err)
    assert "\nb" not in shown.out + shown.err
    assert shown.err.count("caf\\udce9") == (2 if raised is None else 3)


def test_warnings_for_users_are_one_line_and_those_for_developers_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn() -> dict[str, str]:
        warnings.warn("tokens\ncoincide", UserWarning, stacklevel=1)
        warnings.warn("old name", FutureWarning, stacklevel=1)
        return {"a": "b"}

    monkeypatch.setattr(doctor, "report", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("doctor") == 0
    assert capsys.readouterr().err == "tsloss: warning: tokens coincide\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    script = (
        "import sys; from tsloss_fast import cli, doctor\n"
        "doctor.report = lambda: {str(i): 'x' * 100 for i in range(10**5)}\n"
        "sys.exit(cli.main(['doctor']))"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe) as process:
        process.stdout.read(10)  # type: ignore[union-attr]
        process.stdout.close()  # type: ignore[union-attr]
        assert process.wait(60) == 1
        assert process.stderr.read() == b""  # type: ignore[union-attr]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_or_closed_standard_output_is_an_error_without_a_traceback() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    said = []
    for place in (os.open("/dev/full", os.O_WRONLY), writing):
        with open(place, "w") as out:
            command = [sys.executable, "-m", "tsloss_fast", "doctor"]
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment, timeout=120
            )
        assert done.returncode == 1
        said.append(done.stderr)
    assert re.fullmatch(r"tsloss: error: \[Errno 28\].*\n", said[0])
    assert said[1] == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["tune", "--model", "no/model"], 1),
        (["compare", "quick"], 1),
        (["bench", "4x4"], 2),
        (["barcode", "no.npy"], 1),
    ],
)
def test_an_output_that_cannot_be_written_is_noticed_before_the_work(
    arguments: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the file that was given, and the command says and makes nothing else."""
    needs(arguments[0])
    (tmp_path / "file").touch()
    name = "run.md" if arguments[0] == "bench" else "run.npz"
    for option in ("-o", "--out", "--output")[: 3 if arguments[0] == "bench" else 2]:
        assert run(*arguments, option, str(tmp_path / "file" / name)) == code
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        assert f"cannot write {tmp_path}/file/{name}: {tmp_path}/file is no folder" in shown.err
        assert shown.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_can_be_made_or_filled_passes_and_is_left_as_it_was(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "a" / "b"):
        check_writable_folder(folder)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"cannot write .*/file: .*/file is no folder"):
        check_writable_folder(tmp_path / "file")


def test_all_packages_that_are_missing_are_named_at_once() -> None:
    expected = r'^a command needs absent_one, absent_two, not installed here; .*"tsloss-fast\[x\]"$'
    with pytest.raises(ModuleNotFoundError, match=expected) as error:
        require("a command", "x", "absent_one", "sys", "absent_two")
    assert error.value.name == "absent_one"
    require("a command", "x", "sys", "json")


@pytest.mark.parametrize(("package", "name"), [("analysis", "read_record"), ("tuning", "tune")])
def test_a_package_without_what_it_needs_names_its_own_extra(package: str, name: str) -> None:
    """`tuning` imports `analysis`, which needs pyarrow too and is installed by another extra."""
    code = f"import sys; sys.modules['pyarrow'] = None; from tsloss_fast.{package} import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (said,) = done.stderr.splitlines()[-1:]
    assert re.search(rf"tsloss_fast\.{package} needs .*\bpyarrow\b", said)
    assert said.endswith(f'"tsloss-fast[{package}]"')
