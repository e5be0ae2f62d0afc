"""What the README shows is what runs and what was measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.exists(), reason="needs the source tree")


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plain_loop_runs_as_printed_and_evens_out_the_bars(tmp_path: Path) -> None:
    out = run(python_blocks()[0], tmp_path)
    deaths = [float(number) for number in re.findall(r"\d+\.\d+", out)]
    assert len(deaths) == 19
    assert max(deaths) / min(deaths) < 1.05


def test_no_example_is_left_out() -> None:
    """Three are run in their order, the others by the name of their file."""
    first = [block.splitlines()[0].split(":")[0] for block in python_blocks()]
    others = [name for name in first if name.startswith("# ")]
    assert others == ["# light.py", "# cloud.py", "# prompt.py"]
    assert len(first) - len(others) == 3


@pytest.mark.slow
def test_the_trainer_example_runs_as_printed(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the tuning extra")
    out = run(python_blocks()[1], tmp_path)
    logged = [float(number) for number in re.findall(r"0\.\d+|\d+e-\d+", out.splitlines()[-1])]
    assert len(logged) == 3


def test_the_tracker_example_runs_as_printed(tmp_path: Path) -> None:
    for module in ("pyarrow", "gudhi", "sklearn"):
        pytest.importorskip(module, reason="needs the analysis extra")
    out = run(python_blocks()[3], tmp_path)
    means, _, diagrams = out.partition("[array")
    assert len(re.findall(r"\d+\.\d*", means)) == 41
    assert "inf" in diagrams
    assert (tmp_path / "runs/mine/topology.arrows").exists()


def launch_example(name: str, folder: Path) -> str:
    """Saves the block that begins `# name: command`, and runs the command as printed."""
    block = next(b for b in python_blocks() if b.startswith(f"# {name}: "))
    (folder / name).write_text(block, encoding="utf-8")
    command = block.splitlines()[0].partition(": ")[2].split()
    command[0] = str(Path(sys.executable).with_name(command[0]))
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_lightning_example_runs_as_printed(tmp_path: Path) -> None:
    for module in ("lightning", "transformers", "peft"):
        pytest.importorskip(module, reason="needs lightning and the tuning extra")
    out = launch_example("light.py", tmp_path)
    assert 0 <= float(out.strip().splitlines()[-1]) < 10
    assert (tmp_path / "runs/light/topology.arrows").exists()


@pytest.mark.slow
def test_the_torchrun_example_runs_as_printed(tmp_path: Path) -> None:
    out = launch_example("cloud.py", tmp_path)
    assert re.search(r"^5999 bars, \d+ of them within the first process$", out, re.M)


@pytest.mark.slow
def test_the_accelerate_example_runs_as_printed(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs the tuning extra")
    out = launch_example("prompt.py", tmp_path)
    assert 0 <= float(out.strip().splitlines()[-1]) < 10


def test_the_barcode_of_a_vocabulary_is_what_was_printed() -> None:
    """`benchmarks/results/barcode.txt`: the command, and what it said."""
    text = README.read_text(encoding="utf-8")
    shown = re.search(r"<!-- barcode -->\n```\n(.*?)```\n<!-- /barcode -->", text, re.S)
    assert shown is not None
    assert shown[1] == (ROOT / "benchmarks/results/barcode.txt").read_text(encoding="utf-8")


def test_the_benchmark_table_is_what_the_command_makes_of_the_measurements() -> None:
    """`tsloss bench --show benchmarks/results/quick.json --readme README.md` writes it."""
    from tsloss_fast.benchmarks import report
    from tsloss_fast.benchmarks.records import results_from_json

    text = README.read_text(encoding="utf-8")
    shown = re.search(r"<!-- benchmark -->\n```\n(.*?)```\n<!-- /benchmark -->", text, re.S)
    assert shown, "the README has no benchmark table"
    measured = (ROOT / "benchmarks/results/quick.json").read_text(encoding="utf-8")
    results = results_from_json(measured)
    assert shown[1] == report.text(results, elsewhere=True)
    assert {row.work.section for row in results.rows} == {
        "Training step, forward and backward",
        "One cloud, forward",
    }
    assert not results.missing, "a baseline was not installed"


def test_the_evidence_is_made_from_the_raw_results(tmp_path: Path) -> None:
    """Every table of it again, and the page, from the files that are committed."""
    for module in ("pandas", "scipy", "matplotlib"):
        pytest.importorskip(module, reason="needs the study extra")
    from tsloss_fast.benchmarks.study.page import write

    committed = ROOT / "benchmarks/results/evidence"
    folder = tmp_path / "evidence"
    folder.mkdir()
    for file in committed.glob("*.jsonl"):
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("first", "controls"):
        (folder / name).symlink_to(committed / name, target_is_directory=True)
    readme = tmp_path / "README.md"
    readme.write_bytes(README.read_bytes())
    write(folder, tmp_path / "evidence.md", readme)
    page = (tmp_path / "evidence.md").read_text(encoding="utf-8")
    assert page == (ROOT / "benchmarks/results/evidence.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 100
    for tables in folder.glob("*.md"):
        there = (committed / tables.name).read_text(encoding="utf-8")
        assert tables.read_text(encoding="utf-8") == there
    assert readme.read_text(encoding="utf-8") == README.read_text(encoding="utf-8")


def headings(page: Path) -> set[str]:
    """What links to a part of it may name."""
    titles = re.findall(r"^#+ (.+)", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_files_and_commands_that_the_readme_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, heading = target.partition("#")
        page = ROOT / path if path else README
        assert page.exists(), target
        if heading:
            assert heading in headings(page), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in re.findall(r"^make (\w+)", text, re.M):
        assert re.search(rf"^{command}:", makefile, re.M), command
