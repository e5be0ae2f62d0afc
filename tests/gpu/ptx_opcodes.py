"""The table of PTX opcodes: which C++ function of tests/native/ptx_words.h executes which opcode.

Rows are expanded to a dictionary of whole opcodes. A modifier that no row has (`.rz`, `.ftz`,
`.sat`, ...) therefore makes an opcode unknown, which is an error; none is ever ignored."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

C_TYPES = {
    "pred": "bool",
    **{f"{kind}{bits}": f"uint{bits}_t" for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
    "f16": "uint16_t",
    "f32": "float",
    "f64": "double",
}
SPECIAL_REGISTERS = {
    f"%{name}.{axis}": f"{word}.{axis}"
    for name, word in {
        "tid": "threadIdx",
        "ntid": "blockDim",
        "ctaid": "blockIdx",
        "nctaid": "gridDim",
    }.items()
    for axis in "xyz"
}

SIGNED, UNSIGNED = "s16 s32 s64", "u16 u32 u64"
INTEGERS, BITS, FLOATS = f"{SIGNED} {UNSIGNED}", "b16 b32 b64", "f32 f64"
ALL_INTEGERS = f"s8 u8 {INTEGERS}"
WORDS = f"{BITS} {INTEGERS} {FLOATS}"
MEMORY = f"b8 s8 u8 {WORDS}"
ROUNDED = "{rni,rzi,rmi,rpi}"
ROUNDINGS = "{kNearest,kZero,kDown,kUp}"

# Opcodes, the types T that they exist for, operands, and the C++ function.
#
# Braces hold alternatives, as in a shell; a function with alternatives has one for each opcode. @
# stands for each space in turn. Among the operands, results stand before "=" and W and H are the
# types of twice and half T's width; `T*4` is a vector and `T|pred` two results of which the second
# may be left out; [space] is an address, and 0 that very number. `window` is the block's shared
# memory, for functions that need it beside the operands of PTX.
Row = tuple[str, str, str, str]
ROWS: tuple[Row, ...] = (
    # ---- integers ----
    ("{add,sub,mul.lo,mul.hi}", INTEGERS, "T = T T", "{add,sub,mul_lo,mul_hi}"),
    ("mul.wide", "s16 u16 s32 u32", "W = T T", "mul_wide"),
    ("mad.lo", INTEGERS, "T = T T T", "mad_lo"),
    ("mad.wide", "s16 u16 s32 u32", "W = T T W", "mad_wide"),
    ("{div,rem}", INTEGERS, "T = T T", "{quotient,remainder}"),
    ("{min,max}", INTEGERS, "T = T T", "{least,greatest}"),
    ("{abs,neg}", SIGNED, "T = T", "{absolute,negative}"),
    ("{and,or,xor}", f"pred {BITS}", "T = T T", "bit_{and,or,xor}"),
    ("not", f"pred {BITS}", "T = T", "bit_not"),
    ("shl", BITS, "T = T u32", "shl"),
    ("shr", f"{BITS} {INTEGERS}", "T = T u32", "shr"),
    ("{popc,clz}", "b32 b64", "u32 = T", "{popc,clz}"),
    ("brev", "b32 b64", "T = T", "brev"),
    ("bfind{,.shiftamt}", "u32 s32 u64 s64", "u32 = T", "{bfind,bfind_shiftamt}"),
    ("bfe", "u32 s32 u64 s64", "T = T u32 u32", "bfe"),
    ("bfi", "b32 b64", "T = T T u32 u32", "bfi"),
    # ---- floating point; .rn is the default ----
    ("{add,sub,mul}", FLOATS, "T = T T", "float_{add,sub,mul}"),
    ("{add,sub,mul,div}.rn", FLOATS, "T = T T", "float_{add,sub,mul,div}"),
    ("fma.rn", FLOATS, "T = T T T", "fma"),
    ("{sqrt,rcp}.rn", FLOATS, "T = T", "{square_root,inverse}"),
    ("rcp.approx.ftz", "f32", "T = T", "rough_inverse"),
    ("{min,max}", FLOATS, "T = T T", "float_{min,max}"),
    ("{abs,neg}", FLOATS, "T = T", "float_{abs,neg}"),
    # ---- comparisons and choices ----
    ("setp.{eq,ne}", f"{BITS} {INTEGERS}", "pred = T T", "{eq,ne}"),
    ("setp.{lt,le,gt,ge}", INTEGERS, "pred = T T", "{lt,le,gt,ge}"),
    ("setp.{lo,ls,hi,hs}", UNSIGNED, "pred = T T", "{lt,le,gt,ge}"),
    ("setp.{eq,ne,lt,le,gt,ge}", FLOATS, "pred = T T", "{eq,ordered_ne,lt,le,gt,ge}"),
    ("setp.{equ,neu,ltu,leu,gtu,geu}", FLOATS, "pred = T T", "{equ,ne,ltu,leu,gtu,geu}"),
    ("setp.{num,nan}", FLOATS, "pred = T T", "{both_numbers,any_nan}"),
    ("selp", WORDS, "T = T T pred", "selp"),
    # ---- conversions, of a type to T ----
    *(
        (f"cvt.T.{t}", ALL_INTEGERS, f"T = {t}", f"cut<T, {C_TYPES[t]}>")
        for t in ALL_INTEGERS.split()
    ),
    *(
        (f"cvt.sat.T.{t}", ALL_INTEGERS, f"T = {t}", f"saturated<T, {C_TYPES[t]}>")
        for t in ALL_INTEGERS.split()
    ),
    *(
        (f"cvt.rn.T.{t}", FLOATS, f"T = {t}", f"rounded_integer<T, {C_TYPES[t]}>")
        for t in ALL_INTEGERS.split()
    ),
    *(
        (
            f"cvt.{ROUNDED}.T.{t}",
            INTEGERS,
            f"T = {t}",
            f"whole<T, {C_TYPES[t]}, Round::{ROUNDINGS}>",
        )
        for t in FLOATS.split()
    ),
    *(
        (f"cvt.{ROUNDED}.{t}.{t}", "", f"{t} = {t}", f"round<{C_TYPES[t]}, Round::{ROUNDINGS}>")
        for t in FLOATS.split()
    ),
    ("cvt.f64.f32", "", "f64 = f32", "widened"),
    ("cvt.rn.f32.f64", "", "f32 = f64", "narrowed"),
    ("cvt.f32.f16", "", "f32 = f16", "widened_half"),
    ("cvt.rn.f16.f32", "", "f16 = f32", "narrowed_to_half"),
    # ---- data; hints for caches (.nc, .ca, .cg, .cs, .wb) change no value ----
    ("mov", f"pred {WORDS}", "T = T", "same"),
    ("mov.pack2", "b32 b64", "T = H*2", "pack"),
    ("mov.unpack2", "b32 b64", "H*2 = T", "unpack"),
    ("cvta{,.to}.global", "u64", "T = T", "same"),
    ("cvta{,.to}.shared", "u64", "T = window T", "{generic_of_shared,shared_of_generic}"),
    ("ld.param", MEMORY, "T = [param]", "load"),
    ("ld.param.v{2,4}", MEMORY, "T*{2,4} = [param]", "load_vector<T, {2,4}>"),
    ("ld@{,.nc,.ca,.cg,.cs}", MEMORY, "T = [@]", "load"),
    ("ld@{,.nc,.ca,.cg,.cs}.v2", MEMORY, "T*2 = [@]", "load_vector<T, 2>"),
    ("ld@{,.nc,.ca,.cg,.cs}.v4", MEMORY, "T*4 = [@]", "load_vector<T, 4>"),
    ("ld.volatile@", MEMORY, "T = [@]", "load_volatile"),
    ("st@{,.wb,.cg,.cs}", MEMORY, "[@] T", "store"),
    ("st@{,.wb,.cg,.cs}.v2", MEMORY, "[@] T*2", "store"),
    ("st@{,.wb,.cg,.cs}.v4", MEMORY, "[@] T*4", "store"),
    ("st.volatile@", MEMORY, "[@] T", "store_volatile"),
    ("cp.async.{ca,cg}.shared.global", "", "[shared] [global] u32", "copy_later"),
    ("cp.async.wait_all", "", "", "wait_for_copies"),
    # ---- atomics: without a scope or an order they are relaxed, and for the whole device ----
    ("atom@.add", "u32 s32 u64 f32 f64", "T = [@] T", "atomic_add"),
    ("red@.add", "u32 s32 u64 f32 f64", "[@] T", "atomic_add"),
    ("atom@.{min,max}", "u32 s32 u64 s64", "T = [@] T", "atomic_{min,max}"),
    ("red@.{min,max}", "u32 s32 u64 s64", "[@] T", "atomic_{min,max}"),
    ("atom@.{and,or,xor}", "b32 b64", "T = [@] T", "atomic_{and,or,xor}"),
    ("red@.{and,or,xor}", "b32 b64", "[@] T", "atomic_{and,or,xor}"),
    ("atom@.exch", "b32 b64", "T = [@] T", "atomic_exchange"),
    ("atom@.cas", "b32 b64", "T = [@] T T", "atomic_compare"),
    ("membar.{cta,gl,sys}", "", "", "fence"),
    ("fence.{sc,acq_rel}.{cta,gpu,sys}", "", "", "fence"),
    # ---- threads together ----
    ("{bar,barrier}.sync", "", "0", "bar_sync"),
    ("bar.red.{or,and}.pred", "", "pred = 0 pred", "bar_red<bool, simt::Vote::{kOr,kAnd}>"),
    ("bar.red.popc.u32", "", "u32 = 0 pred", "bar_red<uint32_t, simt::Vote::kCount>"),
    ("bar.warp.sync", "", "u32", "bar_warp_sync"),
    (
        "shfl.sync.{idx,up,down,bfly}.b32",
        "",
        "b32|pred = b32 u32 u32 u32",
        "shfl_{idx,up,down,bfly}",
    ),
    ("vote.sync.ballot.b32", "", "b32 = pred u32", "vote_ballot"),
    ("vote.sync.{any,all}.pred", "", "pred = pred u32", "vote_{any,all}"),
    ("match.any.sync", "b32 b64", "b32 = T u32", "match_any"),
    ("redux.sync.add", "u32 s32", "T = T u32", "redux<T, simt::Collective::kAdd>"),
    ("redux.sync.min", "u32 s32", "T = T u32", "redux_min"),
    ("redux.sync.max", "u32 s32", "T = T u32", "redux_max"),
    ("redux.sync.{and,or,xor}", "b32", "T = T u32", "redux<T, simt::Collective::{kAnd,kOr,kXor}>"),
    # ---- control ----
    ("bra{,.uni}", "", "label", "goto"),
    ("{ret,exit}", "", "", "return"),
    ("nanosleep", "u32", "T", "nanosleep"),
    ("trap", "", "", "trap"),
)


class Form(NamedTuple):
    """How an opcode becomes C++: a function, and the types of what it returns and takes."""

    function: str
    results: tuple[str, ...]
    sources: tuple[str, ...]


def _alternatives(text: str) -> list[str]:
    """The strings that braces stand for."""
    parts = re.split(r"\{([^}]*)\}", text)
    choices = [part.split(",") if k % 2 else [part] for k, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def _in_step(text: str, count: int) -> list[str]:
    """One string for each of `count` opcodes."""
    found = _alternatives(text)
    assert len(found) in (1, count), f"{text} has {len(found)} alternatives, not 1 or {count}"
    return found * (count // len(found))


def _of_width(t: str, factor: float) -> str:
    return f"{t[0]}{int(int(t[1:]) * factor)}" if t[1:].isdigit() else t


def _forms(row: Row) -> Iterator[tuple[str, Form]]:
    opcodes, types, operands, functions = row
    names = _alternatives(opcodes)
    for name, ops, function in zip(
        names, _in_step(operands, len(names)), _in_step(functions, len(names)), strict=True
    ):
        for t in types.split() or [""]:
            # The type is the last word of an opcode, except of conversions, which have T.
            opcode = name.replace("T", t) if "T" in name else f"{name}.{t}" if t else name
            call = re.sub(r"\bT\b", C_TYPES.get(t, ""), function)
            if t and "<" not in call:
                call += f"<{C_TYPES[t]}>"
            kinds = {"T": t, "W": _of_width(t, 2), "H": _of_width(t, 0.5)}
            typed = re.sub(r"\b[TWH]\b", lambda m: kinds[m[0]], ops)  # noqa: B023
            results, equals, sources = typed.rpartition("=")
            assert equals or not results
            yield (
                opcode,
                Form(
                    call,
                    tuple(re.split(r"[ |]", results.strip())) if results else (),
                    tuple(sources.split()),
                ),
            )


def _table() -> dict[str, Form]:
    table: dict[str, Form] = {}
    for row in ROWS:
        for space in ("global", "shared", "generic") if "@" in row[0] else ("",):
            dotted = "" if space == "generic" else f".{space}"
            opcodes, types, operands, function = row
            placed = (opcodes.replace("@", dotted), types, operands.replace("@", space), function)
            for opcode, form in _forms(placed):
                assert opcode not in table, f"two rows have {opcode}"
                table[opcode] = form
    return table


OPCODES = _table()
