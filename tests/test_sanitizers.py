"""The native core under sanitizers: several callers at once, arbitrary inputs, no memory.

tests/native has the programs; csrc/cpu is compiled once for AddressSanitizer and
UndefinedBehaviorSanitizer, once for ThreadSanitizer, with thresholds at which small clouds take
every path.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from native_build import FUZZ, SANITIZERS, Core, build_core, unpack_corpus
from source_tree import ROOT

MUTATIONS = 300

pytestmark = [
    pytest.mark.sanitizer,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.uname().machine != "x86_64" or not shutil.which("g++") or not (ROOT / "csrc").is_dir(),
        reason="needs the source tree and g++ on x86-64",
    ),
]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    return build_core(tmp_path_factory.mktemp("address"), SANITIZERS, low=True)


def output(program: Path, *arguments: object) -> str:
    """What it prints, if it ends well and no sanitizer has anything to say."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=program.parent,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stderr == ""
    return done.stdout


def test_several_callers_touch_no_foreign_memory(core: Core) -> None:
    program = core.program("stress", ["stress.cpp"])
    assert output(program) == "same bits for any number of threads\n"


def test_several_callers_do_not_race(tmp_path: Path) -> None:
    flags = ["-fsanitize=thread", "-fno-sanitize-recover=all"]
    program = build_core(tmp_path, flags, low=True).program("stress", ["stress.cpp"])
    assert output(program) == "same bits for any number of threads\n"


def test_inputs_that_a_fuzzer_found_and_others_like_them_give_right_results(core: Core) -> None:
    program = core.program("fuzz", [*FUZZ, "fuzz_driver.cpp"])
    count = unpack_corpus(core.folder / "known")
    assert count > 100
    printed = output(program, core.folder / "known", MUTATIONS)
    assert printed == f"{count} inputs and {MUTATIONS} mutations\n"


def test_every_allocation_may_fail(core: Core) -> None:
    printed = output(core.program("allocations", ["allocations.cpp"]))
    found = re.fullmatch(r"no failed allocation of (\d+) does harm\n", printed)
    assert found, printed
    assert int(found[1]) > 3000
