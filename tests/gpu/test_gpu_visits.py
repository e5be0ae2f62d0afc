"""The commands of benchmarks/gpu_check.md must work the first time that they are pasted."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from fake_machine import STEPS, Machine
from source_tree import ROOT
from tsloss_fast.benchmarks import gpu_check

GUIDE = ROOT / "benchmarks/gpu_check.md"
BUILD_SECONDS = 60  # one architecture: 28 s of nvcc on one core, and the core for CPUs meanwhile
INSTALL_SECONDS = 20
SECOND = ["build", "tests", "measure", "memcheck", "racecheck", "ncu"]

pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason="needs the source tree")


def visits() -> dict[int, str]:
    """The commands of the visits, by their seconds."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.findall(r"^## \w+ visit: (\d+) seconds$.*?^```bash\n(.*?)^```", text, re.M | re.S)
    return {int(seconds): command for seconds, command in found}


def test_there_are_two_checking_visits_with_commands_that_can_be_pasted() -> None:
    assert list(visits()) == [320, 340]
    for command in visits().values():
        assert len(command) < 2000
        assert command.isascii()
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_steps_of_a_visit_fit_into_it() -> None:
    for seconds, command in visits().items():
        words = shlex.split(command)
        (total,) = (int(w.partition("=")[2]) for w in words if w.startswith("GPU_CHECK_SECONDS="))
        assert total + INSTALL_SECONDS <= seconds
        _, shares = gpu_check.parse(words[words.index("benchmarks/gpu_check.sh") + 1 :])
        if shares != gpu_check.USUAL:  # those scale
            assert BUILD_SECONDS + sum(shares.values()) <= total


@pytest.mark.parametrize(("seconds", "steps"), [(320, list(STEPS)), (340, SECOND)])
def test_a_visit_runs_its_steps_and_few_files_come_back(
    fake: Machine, seconds: int, steps: list[str]
) -> None:
    (fake.bin / "python3").symlink_to(fake.bin / "stub python")
    (fake.folder / "out").mkdir()
    done = subprocess.run(
        [str(fake.bin / "bash"), "-c", visits()[seconds]],
        env=fake.environment | {"PYTHON": "", "OUT": str(fake.out)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert fake.results == dict.fromkeys(steps, "passed")
    assert all(path.is_file() for path in fake.out.iterdir())
    assert len(list(fake.out.iterdir())) <= 5
    install, build = fake.calls("pip install")
    assert "--no-deps" in install
    assert "--target /tmp/site" in install
    assert str(ROOT) in build


def test_no_wheel_replaces_torch_or_numpy_and_none_is_part_of_the_repository() -> None:
    (download,) = re.findall(r"pip download.*?```", GUIDE.read_text(encoding="utf-8"), re.S)
    names = shlex.split(download.partition("\\\n  gudhi")[2].rstrip("`"))
    assert names == ["scikit-build-core>=1.0", "pybind11>=3.0", "packaging", "pathspec", "gguf"]
    assert ".whl/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_command_of_the_study_can_be_pasted_and_fits_into_its_visit() -> None:
    _, _, text = GUIDE.read_text(encoding="utf-8").partition("\n## A third visit: the study\n")
    (total,) = re.findall(r"^At most (\d+) seconds", text, re.M)
    *_, command = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    assert len(command) < 2000
    assert command.isascii()
    subprocess.run(["bash", "-n", "-c", command], check=True)
    _, _, options = command.partition("-m tsloss_fast.benchmarks.study.on_gpu ")
    (seconds,) = re.findall(r"--seconds (\d+)", options)
    assert int(seconds) + BUILD_SECONDS + INSTALL_SECONDS <= int(total) <= 480
    script = (ROOT / "benchmarks/study/on_gpu.py").read_text(encoding="utf-8")
    assert all(f'"{option}"' in script for option in re.findall(r"--[a-z]+", options))


def test_what_the_guide_names_exists() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    script = Path(gpu_check.__file__).read_text(encoding="utf-8")
    for variable in re.findall(r"GPU_CHECK_\w+", text):
        assert f'"{variable}"' in script
    for path in re.findall(r"benchmarks/[\w./]+\w", text):
        assert (ROOT / path).exists(), path
