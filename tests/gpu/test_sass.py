"""Short listings of machine code show that tests/gpu/sass.py finds each thing that kernels must not
do, and that it counts a loop's arithmetic as one does by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import sass

# The end of `add_parts` for sm_90, as nvdisasm prints it.
PRINTED = """\
\t.target\tsm_90

\t.elftype\t@"ET_EXEC"

//--------------------- .text._ZN6tsloss4cuda9add_partsENS0_5BatchEiPf --------------------------
\t.section\t.text._ZN6tsloss4cuda9add_partsENS0_5BatchEiPf,"ax",@progbits
\t.align\t128
        .global         _ZN6tsloss4cuda9add_partsENS0_5BatchEiPf
_ZN6tsloss4cuda9add_partsENS0_5BatchEiPf:
.text._ZN6tsloss4cuda9add_partsENS0_5BatchEiPf:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0230*/               @P0 EXIT ;
        /*0680*/                   MOV R9, R3 ;
.L_x_10074:
        /*0690*/                   LDG.E R10, desc[UR6][R8.64] ;
        /*06a0*/                   IADD3 R5, R5, -0x1, RZ ;
        /*06b0*/                   ISETP.NE.AND P0, PT, R5, RZ, PT ;
        /*06c0*/                   FADD R7, R7, R10 ;
        /*06d0*/               @P0 BRA `(.L_x_10074) ;
        /*06e0*/                   STG.E desc[UR6][R2.64], R7 ;
        /*06f0*/                   EXIT ;
.L_x_10075:
        /*0700*/                   BRA `(.L_x_10075);
        /*0710*/                   NOP ;
"""


def kernel(*lines: str) -> sass.Kernel:
    """Return a kernel of these instructions and labels, which end with a colon."""
    printed = [
        line if line.endswith(":") else f"        /*{16 * at:04x}*/    {line} ;"
        for at, line in enumerate(lines)
    ]
    (only,) = sass.read("\n".join([".text.kernel:", *printed]))
    return only


def test_a_listing_is_read_as_it_is_printed() -> None:
    (found,) = sass.read(PRINTED)
    assert found.symbol == "_ZN6tsloss4cuda9add_partsENS0_5BatchEiPf"
    assert found.labels == {".L_x_10074": 3, ".L_x_10075": 10}
    assert found.code[1] == ("@P0", "EXIT", "")
    assert found.code[6] == ("", "FADD", "R7, R7, R10")
    assert len(found.code) == 12
    assert not found.local_memory() + found.flushes() + found.incoherent_loads()
    assert found.loads() == {4: 1}
    assert found.hottest_loop() == (1, 5)


@pytest.mark.parametrize(
    "line",
    [
        "LDL.64 R2, [R4+0x10]",
        "@!P1 STL [R4+0x8], R7",
        "IADD3 R1, R1, -0x20, RZ",
        "VIADD R6, R1, 0x8",  # the address of a local variable, for generic loads
    ],
)
def test_local_memory_is_found(line: str) -> None:
    set_stack = "MOV R1, c[0x0][0x28]"
    assert kernel(set_stack, line, "EXIT").local_memory() == [line]


@pytest.mark.parametrize(
    "line", ["LDC R1, c[0x0][0x37c]", "IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28]", "MOV R2, R11"]
)
def test_a_stack_pointer_that_is_only_set_is_no_local_memory(line: str) -> None:
    assert not kernel(line, "EXIT").local_memory()


@pytest.mark.parametrize(
    "line",
    [
        "FADD.FTZ R2, R3, R4",
        "@P0 FFMA.FTZ R2, R3, R4, R5",
        "FSETP.GT.FTZ.AND P0, PT, R2, R3, PT",
        "FMNMX.FTZ R2, R3, R4, PT",
        "F2F.FTZ.F64.F32 R2, R4",
        "F2I.FTZ.U32.TRUNC.NTZ R2, R3",
        "MUFU.RCP R2, R3",
        "MUFU.SQRT R2, R3",
        "MUFU.EX2 R2, R3",
    ],
)
def test_a_flush_to_zero_is_found(line: str) -> None:
    assert kernel("FMUL R3, R4, R5", line, "EXIT").flushes() == [line]


@pytest.mark.parametrize(
    ("convert", "add"),
    [
        ("I2F.U32.RP R4, R26", "VIADD R12, R4, 0xffffffe"),
        ("@P0 I2F.RP R4, R26", "IADD3 R12, R4.reuse, 0xffffffe, RZ"),
    ],
)
def test_a_division_of_integers_is_no_flush(convert: str, add: str) -> None:
    division = [convert, "FADD R40, R2, R3", "MUFU.RCP R4, R4"]
    division += [add, "F2I.FTZ.U32.TRUNC.NTZ R13, R12", "IMAD.HI.U32 R6, R13, R15, R12"]
    assert not kernel(*division).flushes()
    # Where another instruction has written the argument in between, it is one.
    spoilt = [*division[:1], "FADD R4, R2, R3", *division[2:3]]
    assert kernel(*spoilt).flushes() == ["MUFU.RCP R4, R4"]
    other = "FADD.FTZ R13, R2, R12"
    assert kernel(*division[:4], other).flushes() == [other]
    spoilt = [*division[:4], "FADD R12, R2, R3", *division[4:5]]
    assert kernel(*spoilt).flushes() == ["F2I.FTZ.U32.TRUNC.NTZ R13, R12"]


def test_only_an_inverse_is_allowed_where_its_argument_is_normal() -> None:
    found = kernel("MUFU.RCP R2, R3", "MUFU.RSQ R2, R3", "FMUL.FTZ R2, R2, R3")
    assert found.flushes(inverse_of_normal=True) == ["MUFU.RSQ R2, R3", "FMUL.FTZ R2, R2, R3"]


def test_approximations_in_double_precision_are_no_flush() -> None:
    assert not kernel("MUFU.RCP64H R3, R5", "MUFU.RSQ64H R7, R9").flushes()


@pytest.mark.parametrize(
    "line",
    [
        "LDG.E.128.CONSTANT R4, desc[UR6][R2.64]",
        "@P1 LDG.E.CONSTANT R4, [R2.64]",
        "LDG.E.NC R4, [R2.64]",
        "TLD.B.LZ.P R4, R2, 0x0, 1D, 0x1",
    ],
)
def test_an_incoherent_load_is_found(line: str) -> None:
    coherent = ["LDG.E.STRONG.SYS R4, desc[UR6][R2.64]", "LDC.64 R2, c[0x0][0x218]"]
    assert kernel(*coherent, line).incoherent_loads() == [line]


def test_loads_from_global_memory_are_counted_by_their_bytes() -> None:
    found = kernel(
        "LDG.E.128 R4, desc[UR6][R2.64]",
        "LDGSTS.E.BYPASS.128 [R9], desc[UR6][R2.64]",
        "LDG.E.64 R4, desc[UR6][R2.64+0x80]",
        "@P3 LDG.E R4, desc[UR6][R2.64]",
        "LD.E R4, desc[UR6][R2.64]",
        "LDG.E.STRONG.SYS R4, desc[UR6][R2.64]",
        "LDG.E.U16 R4, desc[UR6][R2.64]",
        "LDG.E.U8 R4, desc[UR6][R2.64]",
        # These do not load from global memory.
        "LDS.128 R4, [R2]",
        "LDC.64 R4, c[0x0][0x218]",
        "LDGDEPBAR",
        "STG.E.128 desc[UR6][R2.64], R4",
    )
    assert found.loads() == {16: 2, 8: 1, 4: 3, 2: 1, 1: 1}


NESTED = [
    "LDC R1, c[0x0][0x28]",
    ".L_x_0:",  # the outer loop: not counted, though it has more arithmetic
    *(5 * ["FADD R2, R3, R4"]),
    ".L_x_1:",
    "LDS R5, [R6]",
    "FFMA R2, R5, R5, R2",
    "DADD R8, R8, R10",
    "HADD2.F32 R4, -RZ, R5.H0_H0",
    "@!P0 BRA `(.L_x_3)",  # to a block of the loop that stands after it
    ".L_x_2:",
    "BRA.DIV UR4, `(.L_x_4)",
    "@P1 BRA `(.L_x_1)",
    "BRA.U UP0, `(.L_x_0)",
    "EXIT",
    ".L_x_3:",
    "DSETP.GT.AND P0, PT, R8, R10, PT",
    "CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_u64)",
    "BRA `(.L_x_2)",
    ".L_x_4:",  # for a warp that has diverged
    *(9 * ["FADD R2, R3, R4"]),
    "BRA `(.L_x_2)",
    ".L_x_5:",
    "BRA `(.L_x_5)",
]


def test_the_innermost_loop_is_counted_wherever_its_blocks_stand() -> None:
    (loop,) = kernel(*NESTED).inner_loops()
    assert [one.name for one in loop] == ["LDS", "FFMA", "DADD", "HADD2"] + (
        3 * ["BRA"] + ["DSETP", "CALL", "BRA"]
    )
    assert kernel(*NESTED).hottest_loop() == (3, 10)


def test_a_branch_back_to_code_that_is_reached_otherwise_is_no_loop() -> None:
    main = ["@P0 BRA `(.L_x_1)", ".L_x_0:", "FADD R2, R3, R4", "EXIT"]
    found = kernel(*main, ".L_x_1:", "FMUL R3, R4, R5", "BRA `(.L_x_0)")
    assert not found.inner_loops()
    assert found.hottest_loop() == (0, 0)


def test_a_branch_to_a_computed_place_is_refused() -> None:
    with pytest.raises(ValueError, match="BRX R2 -0x90"):
        kernel("BRX R2 -0x90", "EXIT").inner_loops()


def test_of_two_loops_the_one_with_more_arithmetic_counts() -> None:
    small = [".L_x_0:", *(2 * ["FADD R2, R3, R4"]), "@P0 BRA `(.L_x_0)"]
    large = [".L_x_1:", *(3 * ["FFMA R2, R3, R4, R5"]), *(9 * ["NOP"]), "@P0 BRA `(.L_x_1)"]
    assert kernel(*small, *large, "EXIT").hottest_loop() == (3, 13)
    assert kernel(*large, *small, "EXIT").hottest_loop() == (3, 13)


def test_the_disassembler_comes_from_the_path_then_from_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packages, path = tmp_path / "packages", tmp_path / "path"
    for folder in (packages / "nvidia/cu13/bin", path):
        folder.mkdir(parents=True)
        (folder / "nvdisasm").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.path", [])
    assert sass.disassembler() is None
    monkeypatch.setattr("sys.path", [str(packages)])
    assert sass.disassembler() == str(packages / "nvidia/cu13/bin/nvdisasm")
    monkeypatch.setenv("PATH", str(path))
    assert sass.disassembler() == str(path / "nvdisasm")
