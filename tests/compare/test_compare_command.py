"""The options of `tsloss compare`: what they change in a design, and which are refused."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("rich", reason=NEEDS)
pytest.importorskip("scipy", reason=NEEDS)

pytest.importorskip("matplotlib", reason=NEEDS)

from tsloss_fast import cli
from tsloss_fast.compare import scheduler
from tsloss_fast.compare.design import Design, load_design
from tsloss_fast.compare.plan import Plan
from tsloss_fast.compare.view import live


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["defualt"], "neither a file nor one of ablation, default"),
        (["default", "--methods", "ce", "adam"], "method must be one of ce, l2"),
        (["default", "--seeds", "1000", "1"], "must differ"),
        (["default", "--tables"], "holds no results"),
    ],
)
def test_wrong_options_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", *arguments, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_names_reach_the_live_table_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    nasty = "[red]\x1b]0;title\x07 :smile:"
    design = load_design(
        "default",
        {
            "tasks": [nasty],
            "methods": [{"name": "[red] :smile:", "loss": "l2"}],
        },
    )
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "xterm")
    with live(design) as view:
        state = scheduler.State(Plan(design, {}))
        state.underway[1] = (f"{nasty}, seed 0", {"loading": nasty})
        view(state)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)  # rich's own colours
    for name in (
        "[red]\\x1b]0;title\\x07 :smile:, 10 tokens",
        "[red] :smile:",
        "seed 0: loading [red]",
    ):
        assert name in shown


def test_options_replace_the_designs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Design] = []

    def look(design: Design, out: Path, **options: Any) -> Path:
        seen.append(design)
        assert options["processes"] == 3
        raise KeyboardInterrupt

    monkeypatch.setattr(scheduler, "run_experiment", look)
    arguments = ["--methods", "ce", "l2", "--seeds", "7", "8", "--virtual-tokens", "5", "20"]
    arguments += ["--tasks", "boolean", "navigate", "--models", "gpt2", "--cohort", "2"]
    code = cli.main(["compare", "--processes", "3", "--out", str(tmp_path), *arguments])
    assert code == 130
    (design,) = seen
    assert [method.name for method in design.methods] == ["ce", "l2"]
    assert design.seeds == (7, 8)
    assert design.virtual_tokens == (5, 20)
    assert design.models == ("gpt2",)
    assert design.cohort == 2
    default = load_design("default")
    assert design.tasks[0] == default.tasks[0]
    assert design.tasks[1].task == "navigate"
    with pytest.raises(SystemExit):
        cli.main(["compare", "--processes", "0"])
