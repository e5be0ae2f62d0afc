"""What comes from others stays data: names never become paths or terminal commands, and links in a
folder are not written through. More pickles: `analysis/test_analyze_sources.py`,
`tuning/test_no_code.py`."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tsloss_fast import _files, cli

for module in ("pyarrow", "safetensors", "matplotlib", "scipy"):
    pytest.importorskip(module, reason="needs the analysis extra")

from safetensors.torch import save_file  # noqa: E402

from tsloss_fast.analysis.record.tracker import TopologyTracker  # noqa: E402

NASTY = (
    "../../escaped",
    "/tmp/escaped-tsloss",
    "..",
    "a/../../b",
    "nul\x00byte",
    "C:\\escaped",
    "\x1b]0;title\x07\x1b[2Jname",
    "<img src=x onerror=alert(1)>",
    "$(touch escaped)`touch escaped`",
    "line\nbreak\u2028and\u202eback",
)


def everything(folder: Path) -> dict[str, bytes | None]:
    """Each file and folder below, with what is in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def command(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def points(seed: int = 0) -> torch.Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and a run of which every name is nasty."""
    folder = tmp_path_factory.mktemp("data")
    save_file({name: points() for name in NASTY}, folder / "names.safetensors")
    torch.save({name: points() for name in NASTY}, folder / "names.pt")
    np.savez(folder / "names.npz", **{name: points().numpy() for name in NASTY if "\0" not in name})
    run = folder / "run"
    run.mkdir()
    # A lone surrogate can be in a string, but not in UTF-8, so safetensors takes no such name.
    clouds = (*NASTY, "half \ud800")
    with TopologyTracker(run, clouds=clouds, points_every=1) as tracker:
        for step in range(3):
            tracker.record(step, torch.stack([points(step + k) for k in range(len(clouds))]))
    config = {"loss": NASTY[7], "weight": 1.0, "task": NASTY[0], "model": NASTY[0], "seed": 0}
    (run / "config.json").write_text(json.dumps({"config": config}))
    lines = [{"kind": "eval", "step": k, f"{NASTY[7]}accuracy": 0.5, "ce": 1.0} for k in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ("analyze", source, *(["--key", "*"] if "." in source else []), "-o", out)
            for source in ("names.safetensors", "names.pt", "names.npz", "run")
            for out in ("out.csv", "out.json")
        ),
        ("barcode", "names.safetensors", "--key", NASTY[0], "--out", "out.npz"),
        ("barcode", "names.safetensors", "--key", NASTY[6], "--out", "out.npz"),
        ("plot", "barcode", "run", "-o", "out.svg", "--title", NASTY[0]),
        ("plot", "curves", "run", "-o", "out.png", "--quantity", f"{NASTY[7]}accuracy"),
        ("report", "run", "-o", "out.html"),
    ],
    ids=lambda arguments: " ".join(arguments[:2] + arguments[-1:])[:40].encode("unicode_escape"),
)
def test_names_in_files_never_say_where_to_write(
    data: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / "deep" / "er"
    work.mkdir(parents=True)
    shutil.copytree(data, work, dirs_exist_ok=True)
    monkeypatch.chdir(work)
    before = everything(tmp_path)
    assert command(*arguments) == 0
    after = everything(tmp_path)
    out = next(a for a in arguments if a.startswith("out."))
    assert {name for name in after if before.get(name, b"new") != after[name]} == {f"deep/er/{out}"}
    assert not Path(NASTY[1]).exists()
    # Nor do they reach the terminal as commands.
    shown = "".join(capfd.readouterr())
    assert not {"\x1b", "\x07", "\x00", "\u202e", "\u2028"} & set(shown)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def test_a_report_holds_every_string_of_a_run_as_text(data: Path, tmp_path: Path) -> None:
    run = tmp_path / NASTY[7]
    shutil.copytree(data / "run", run)
    assert command("report", run, "-o", tmp_path / "out.html", "--no-model") == 0
    page = (tmp_path / "out.html").read_text("utf-8")
    tags = Tags(page).found
    assert "img" not in tags
    assert tags.count("script") == 2
    embedded = page.partition('type="application/json" id="data">')[2].partition("</script>")[0]
    assert "\\u003cimg src=x" in embedded
    assert not set("<>&\u2028") & set(embedded)
    assert not {"\x1b", "\x07", "\u202e", "\u2028"} & set(page)


def test_names_in_errors_reach_the_terminal_as_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_file({NASTY[6]: points(), "b": points()}, tmp_path / "x.safetensors")
    assert command("analyze", tmp_path / "x.safetensors") == 1
    shown = capfd.readouterr().err
    assert "\\x1b[2Jname" in shown
    assert "\x1b" not in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", ".", "--no-h1", "-o", f"{NASTY[6]}.csv"),
        ("barcode", f"{NASTY[6]}.npy"),
        ("plot", "curves", "run", "-o", f"{NASTY[6]}.png"),
        ("report", "run", "--no-model", "-o", f"{NASTY[6]}.html"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_names_of_files_reach_the_terminal_as_text(
    data: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(f"{NASTY[6]}.npy", points().numpy())
    if "run" in arguments:
        shutil.copytree(data / "run", "run")
    out, error = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", error)
    assert command(*arguments) == 0
    shown = out.getvalue() + error.getvalue()
    assert not {"\x1b", "\x07"} & set(shown)
    assert "\\x1b[2Jname" in out.getvalue()
    if arguments[0] == "analyze":  # and in the bar
        assert "\\x1b[2Jname.npy" in error.getvalue()


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_a_pickled_adapter_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, marker = tmp_path / "adapter", tmp_path / "executed"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    torch.save({"prompt_embeddings": Bomb(marker)}, folder / "adapter_model.bin")
    assert command("analyze", folder) == 1
    assert "adapter_model.bin holds Python objects" in capfd.readouterr().err
    assert not marker.exists()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of the user, beside the folder that came from elsewhere."""
    (tmp_path / "folder").mkdir()
    path = tmp_path / "precious"
    path.write_text("mine")
    return path


def test_a_planted_temporary_name_is_not_written_through(target: Path) -> None:
    folder = target.parent / "folder"
    for name in (".tmp-out", "out"):
        (folder / name).symlink_to(target)
    with _files.whole_file(folder / "out") as temporary:
        temporary.write_text("new")
    assert target.read_text() == "mine"
    assert (folder / "out").read_text() == "new"
    assert not (folder / "out").is_symlink()


def test_clearing_a_folder_stays_within_it(target: Path) -> None:
    folder, other = target.parent / "folder", target.parent / "other"
    other.mkdir()
    (other / "kept").touch()
    for name in (".tmp-a", "step-000001"):
        (folder / name).symlink_to(other)
    _files.remove_temporaries(folder)
    _files.remove_folder(folder / "step-000001")
    assert (other / "kept").exists()
    assert not list(folder.iterdir())


def lock(folder: Path) -> None:
    from tsloss_fast.tuning.run_folder import exclusive

    with exclusive(folder):
        pass


def log(folder: Path) -> None:
    from tsloss_fast.tuning.run_folder import MetricsLog

    MetricsLog(folder, None).close()


def results(folder: Path) -> None:
    from tsloss_fast.benchmarks.study.results import ResultsFile

    ResultsFile(folder / "results.jsonl").close()


@pytest.mark.parametrize(
    ("name", "write"), [(".lock", lock), ("metrics.jsonl", log), ("results.jsonl", results)]
)
def test_files_that_are_changed_in_place_may_be_no_links(
    target: Path, name: str, write: Callable[[Path], None]
) -> None:
    pytest.importorskip("transformers", reason="needs the tuning extra")
    folder = target.parent / "folder"
    (folder / name).symlink_to(target)
    with pytest.raises(OSError, match=f"symbolic link, .* remove it: .*{name}"):
        write(folder)
    assert target.read_text() == "mine"
    os.unlink(folder / name)
    write(folder)


def test_a_design_makes_no_objects(tmp_path: Path) -> None:
    for module in ("transformers", "yaml"):
        pytest.importorskip(module, reason="needs the extras tuning and study")
    from tsloss_fast.benchmarks.study.design import load_design

    made = tmp_path / "made"
    (tmp_path / "d.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{made}']\n")
    with pytest.raises(ValueError, match=r"d\.yaml: not YAML"):
        load_design(str(tmp_path / "d.yaml"))
    assert not made.exists()
