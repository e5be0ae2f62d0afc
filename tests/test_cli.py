"""The command `tsloss`: help with examples, errors of one line, the right command called."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Sequence

import pytest

from tsloss_fast import cli, doctor
from tsloss_fast._terminal import require

COMMANDS = ("tune", "analyze", "plot", "report", "bench", "doctor")


def run(*arguments: str) -> int | str | None:
    try:
        return cli.main(arguments)
    except SystemExit as leave:
        return leave.code


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The benchmark's command line, replaced by one that notes what it is called with."""
    calls: list[list[str]] = []

    def main(argv: Sequence[str]) -> int:
        calls.append(list(argv))
        return 3

    package, suite = types.ModuleType("benchmarks"), types.ModuleType("suite")
    suite.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tsloss_fast.benchmarks", package)
    monkeypatch.setitem(sys.modules, "tsloss_fast.benchmarks.suite", suite)
    return calls


def test_help_lists_every_command_and_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert "example: tsloss tune" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "tune":
        pytest.importorskip("transformers")
        pytest.importorskip("peft")
    if command in ("tune", "analyze", "plot", "report"):
        pytest.importorskip("pyarrow")
    assert run(command, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: tsloss {command}")
    assert f"example: tsloss {command}" in shown


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


def test_help_is_not_slowed_down_by_what_it_does_not_need() -> None:
    script = (
        "import sys; from tsloss_fast.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'transformers', 'peft', 'gudhi', 'matplotlib'}"
        " & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout.endswith("[]\n"), shown.stderr


def test_it_runs_as_a_module() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "tsloss_fast", "doctor"], capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "instruction set" in shown.stdout


def test_doctor_prints_its_report_as_aligned_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "report", lambda: {"cpu": "fast", "a longer name": "value"})
    assert run("doctor") == 0
    assert capsys.readouterr().out == "cpu            fast\na longer name  value\n"


def test_bench_gets_its_arguments_and_gives_its_exit_code(bench: list[list[str]]) -> None:
    assert run("bench", "20x2048", "--quick") == 3
    assert run("--debug", "bench", "--threads", "2") == 3
    assert bench == [["20x2048", "--quick"], ["--threads", "2"]]


@pytest.mark.parametrize("arguments", [[], ["nope"], ["--nope"], ["doctor", "extra"]])
def test_wrong_usage_has_the_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().err.startswith("usage: tsloss")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (FileNotFoundError(2, "No such file", "x"), "[Errno 2] No such file: 'x'"),
        (KeyError("name"), "KeyError: 'name' (--debug shows where)"),
        (RuntimeError(), "RuntimeError: no message (--debug shows where)"),
        (MemoryError(), "MemoryError: no message (--debug shows where)"),
    ],
)
def test_an_error_is_one_line_and_a_traceback_only_with_debug(
    error: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> dict[str, str]:
        raise error

    monkeypatch.setattr(doctor, "report", fail)
    assert run("doctor") == 1
    assert capsys.readouterr().err == f"tsloss: error: {line}\n"
    for arguments in (["--debug", "doctor"], ["doctor", "--debug"]):
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


def test_an_interrupt_has_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "report", interrupt)
    assert run("doctor") == 130
    assert capsys.readouterr().err == "tsloss: interrupted\n"


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
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_an_output_that_cannot_be_written_is_an_error_without_a_traceback() -> None:
    doctor = [sys.executable, "-m", "tsloss_fast", "doctor"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        to_full = subprocess.run(
            doctor, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=120
        )
    assert to_full.returncode == 1
    assert to_full.stderr.startswith("tsloss: error: [Errno 28]")
    assert to_full.stderr.count("\n") == 1
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        to_nobody = subprocess.run(
            doctor, stdout=pipe, stderr=subprocess.PIPE, text=True, env=environment, timeout=120
        )
    assert (to_nobody.returncode, to_nobody.stderr) == (1, "")


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
