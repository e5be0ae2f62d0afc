"""The instruction set is chosen by the environment, once, and a wrong choice is a clear error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tsloss_fast import _core

INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_vnni")


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
def test_the_environment_chooses_the_instruction_set(isa_name: str) -> None:
    if isa_name not in _core.supported_isas():
        pytest.skip(f"this processor has no {isa_name}")
    code = (
        "import torch, tsloss_fast\n"
        "print(tsloss_fast.h0_persistence(torch.tensor([[0.], [3.]])).deaths.item())\n"
        "print(tsloss_fast._core.isa())"
    )
    assert in_subprocess(code, isa_name).stdout.split() == ["3.0", isa_name]


def test_an_unknown_instruction_set_in_the_environment_is_a_clear_error_at_first_use() -> None:
    code = (
        "import torch, tsloss_fast\n"
        "print('imported')\n"
        "try:\n"
        "    tsloss_fast.h0_persistence(torch.zeros(3, 2))\n"
        "except ValueError as error:\n"
        "    print(error)"
    )
    output = in_subprocess(code, "sse9").stdout
    assert output.startswith("imported\n")
    for word in ("TSLOSS_ISA", "sse9", *_core.supported_isas()):
        assert word in output


def in_subprocess(code: str, isa_name: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSLOSS_ISA": isa_name}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


def test_an_unknown_instruction_set_is_refused_and_changes_nothing() -> None:
    before = _core.isa()
    with pytest.raises(ValueError, match="sse9"):
        _core.set_isa("sse9")
    assert _core.isa() == before
    assert before in _core.supported_isas()
    assert "baseline" in _core.supported_isas()
