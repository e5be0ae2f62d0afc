"""benchmarks/gpu_check.sh on a machine of stubs: what its report says of whatever may happen."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from fake_machine import SCRIPT, STEPS, Machine, needs_script
from source_tree import ROOT


def test_where_everything_passes_the_report_says_so(fake: Machine) -> None:
    assert fake.check() == 0, fake.errors
    assert fake.errors == ""
    assert fake.report == fake.printed
    assert "Everything ran and passed." in fake.report
    assert "- device: H100 (sm_90)" in fake.report
    assert "- nvcc: release 13.0, V13" in fake.report
    assert "| a table |" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "passed")
    for step in STEPS:
        assert f"- {step}: passed (" in fake.report
        assert (fake.out / f"{step}.log").exists()
    assert "- tests: passed" in fake.report
    assert "s). 150 passed" in fake.report
    record = json.loads((fake.out / "report.json").read_text(encoding="utf-8"))
    assert record["status"] == 0
    assert not list(fake.out.glob("*.new"))


def test_no_source_tree_hides_what_was_built(fake: Machine) -> None:
    fake.check(STUB_SMALL="pwd; echo $PYTHONPATH")
    folder, path = (fake.out / "small_clouds.log").read_text(encoding="utf-8").splitlines()
    assert path.startswith(f"{folder}/site:")
    assert not Path(folder).is_relative_to(ROOT)
    assert not Path(folder).exists()
    for word in ("-m pytest", "gpu_small", "benchmarks.gpu "):
        assert all(call.startswith("-S ") for call in fake.calls(word))


def test_measuring_comes_before_the_sanitizers(fake: Machine) -> None:
    fake.check()
    assert list(fake.results) == list(STEPS)


def test_the_build_is_for_the_devices_and_fetches_nothing(fake: Machine) -> None:
    show = "echo $CMAKE_ARGS $TSLOSS_CUDA $TSLOSS_WERROR; test $CMAKE_BUILD_PARALLEL_LEVEL -gt 0"
    fake.check(STUB_BUILD=show, STUB_FACTS="printf '2\\n80;90\\nA (sm_80), H (sm_90)\\n'")
    log = (fake.out / "build.log").read_text(encoding="utf-8")
    assert log == "-DCMAKE_CUDA_ARCHITECTURES=80;90 ON OFF\n"
    (build,) = fake.calls("pip install")
    for option in ("--no-index", "--no-build-isolation", "--no-deps", f" {ROOT}"):
        assert option in build


def test_devices_are_named_and_each_kind_is_built_for_once(fake: Machine) -> None:
    (fake.folder / "torch.py").write_text(
        "import sys; from types import SimpleNamespace\n"
        "__version__ = '2.11'\n"
        "kinds = [(9, 0), (8, 0), (9, 0)]\n"
        "cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 3,\n"
        "    get_device_capability=kinds.__getitem__, get_device_name='ABC'.__getitem__)\n",
        encoding="utf-8",
    )
    ask = 'PYTHONPATH="$STUB" exec "$STUB_REAL" -'
    assert fake.check(STUB_FACTS=ask, STUB_BUILD="echo $CMAKE_ARGS") == 0, fake.report
    assert "- device: A (sm_90), B (sm_80), C (sm_90)\n" in fake.report
    assert "- torch: 2.11\n" in fake.report
    log = (fake.out / "build.log").read_text(encoding="utf-8")
    assert log == "-DCMAKE_CUDA_ARCHITECTURES=80;90\n"


def test_the_sanitizers_look_at_our_kernels_alone(fake: Machine) -> None:
    fake.check()
    lines = (fake.folder / "sanitized").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    for line, tool in zip(lines, STEPS[-4:], strict=True):
        assert f"caching off: 1; --tool {tool} --error-exitcode 9 " in line
        assert "--kernel-name kns=tsloss " in line
        assert line.endswith("-S -m tsloss_fast.benchmarks.gpu_small")
    symbols = (ROOT / "csrc/cuda/launch.h").read_text(encoding="utf-8")
    assert "namespace tsloss" in symbols


@pytest.mark.parametrize("arguments", [("a", "b"), ("--help",), ("",), ("file/out",)])
def test_wrong_usage_has_the_exit_code_2(fake: Machine, arguments: tuple[str, ...]) -> None:
    (fake.folder / "file").write_text("", encoding="utf-8")
    assert fake.check(*arguments) == 2
    assert fake.errors
    assert fake.printed == ""
    assert not (fake.folder / "calls").exists()


@needs_script
def test_no_arguments_are_wrong_usage_too() -> None:
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "usage: benchmarks/gpu_check.sh OUT_DIR\n"


def test_without_nvcc_nothing_runs_and_everything_is_named(fake: Machine) -> None:
    (fake.bin / "nvcc").unlink()
    assert fake.check() == 3
    assert "- build: NOT RUN: nvcc is not in PATH; install the CUDA toolkit" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "not run")
    for step in STEPS:
        assert f"- {step}: NOT RUN: " in fake.report
    assert "Nothing failed, but not everything could run here." in fake.report
    assert not fake.calls("pip")


def test_nvcc_is_found_in_the_toolkit_too(fake: Machine) -> None:
    toolkit = fake.folder / "no cuda/bin"
    toolkit.mkdir()
    for name in ("nvcc", "compute-sanitizer"):
        (fake.bin / name).rename(toolkit / name)
    assert fake.check() == 0


def test_without_torch_nothing_runs_and_everything_is_named(fake: Machine) -> None:
    broken = "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1"
    assert fake.check(STUB_FACTS=broken) == 3
    assert "- torch: none: ModuleNotFoundError: No module named 'torch'" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "not run")
    assert fake.check(PYTHON="no-such-python") == 3
    assert "no-such-python has no torch" in fake.report
    assert not (fake.out / "report.json").exists()


def test_a_build_that_fails_shows_the_end_of_its_log(fake: Machine) -> None:
    build = "for k in {1..40}; do echo line $k; done; echo error: no such kernel >&2; exit 7"
    assert fake.check(STUB_BUILD=build) == 1
    assert "- build: FAILED with exit status 7" in fake.report
    assert "line 40\nerror: no such kernel\n```" in fake.report
    assert "line 15\n" not in fake.report
    assert (fake.out / "build.log").read_text(encoding="utf-8").startswith("line 1\n")
    assert fake.results == {"build": "failed"} | dict.fromkeys(STEPS[1:], "not run")
    assert "A step failed." in fake.report


@pytest.mark.parametrize(
    ("variable", "step"),
    [
        ("STUB_DOCTOR", "doctor"),
        ("STUB_TESTS", "tests"),
        ("STUB_SMALL", "small_clouds"),
        ("STUB_MEASURE", "measure"),
    ],
)
def test_a_step_that_fails_takes_no_other_along(fake: Machine, variable: str, step: str) -> None:
    assert fake.check(**{variable: "echo went wrong; kill -9 $$"}) == 1
    assert f"- {step}: FAILED as it was stopped after" in fake.report
    assert fake.results == dict.fromkeys(STEPS, "passed") | {step: "failed"}
    assert "went wrong" in fake.report


def test_without_a_device_it_rehearses(fake: Machine) -> None:
    assert fake.check(STUB_FACTS="printf '2.13+cpu\\n\\n\\n'") == 3
    assert "- device: none that torch sees" in fake.report
    for step in STEPS[2:]:
        assert f"- {step}: NOT RUN: torch sees no CUDA device" in fake.report
    assert fake.results["rehearse"] == fake.results["rehearse_small"] == "passed"
    assert (fake.out / "rehearsal.md").exists()
    assert not (fake.out / "gpu.md").exists()
    assert "--rehearse" in fake.calls("benchmarks.gpu ")[0]
    assert fake.calls("benchmarks.gpu_small")[0].endswith(" cpu")
    assert "| a table |" in fake.report


def test_relative_names_of_the_interpreter_and_the_folder_will_do(fake: Machine) -> None:
    assert fake.check("./some/where", PYTHON="bin/stub python") == 0
    assert (fake.folder / "some/where/report.json").exists()


def test_the_tests_of_the_script_need_nothing_but_torch_and_pytest(fake: Machine) -> None:
    program = fake.folder / "collect.py"
    program.write_text(
        "import sys\n"
        "for name in ('hypothesis', 'scipy', 'gudhi', 'ripser', 'sklearn', 'ot',\n"
        "             'pytest_benchmark', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "import pytest\n"
        "sys.exit(pytest.main([*sys.argv[1:], '--collect-only', '-q']))\n",
        encoding="utf-8",
    )
    # Its own options, without those of the interpreter; the package is that of these tests.
    collect = 'unset PYTHONPATH; exec "$STUB_REAL" "$STUB/collect.py" "${arguments[@]:3}"'
    assert fake.check(STUB_TESTS=collect) == 0, fake.report
    collected = (fake.out / "tests.log").read_text(encoding="utf-8")
    for name in ("test_graphs_replay", "test_random_clouds", "test_streams", "[cuda-"):
        assert name in collected
    assert "[host-" not in collected
    assert "Unknown" not in collected  # the marks are those of pyproject.toml
