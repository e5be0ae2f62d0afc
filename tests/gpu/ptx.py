"""Translates the PTX that nvcc writes to C++ for the host executor (csrc/simt).

Every entry becomes a function of its parameters that a fiber of each CUDA thread runs. A statement
of PTX becomes a statement of C++ on the line of the same number, so that the compiler, the
sanitizers and the executor name lines of PTX. What is not understood is an error that names the
entry and the line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ptx_opcodes import C_TYPES, OPCODES, SPECIAL_REGISTERS


class PtxError(ValueError):
    """PTX that the translator does not understand."""


class Shared(NamedTuple):
    """A variable in shared memory."""

    name: str
    alignment: int
    size: int


class Statement(NamedTuple):
    """A statement without its semicolon, a label with its colon, or a brace."""

    text: str
    line: int


@dataclass
class Entry:
    """A kernel."""

    name: str
    line: int
    threads: int  # the most of a block
    parameters: dict[str, int]  # sizes in bytes
    body: list[Statement]
    shared: list[Shared] = field(default_factory=list)

    @property
    def static_shared(self) -> int:
        """Bytes of its variables in shared memory."""
        end = 0
        for variable in self.shared:
            end = -(-end // variable.alignment) * variable.alignment + variable.size
        return end


class Module(NamedTuple):
    """A file of PTX."""

    name: str
    dynamic: frozenset[str]  # names of the dynamic shared memory
    entries: list[Entry]


_ENTRY = re.compile(r"\.visible\s+\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{")
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.([bsuf]\d+)\s+(?:\.ptr\b.*?)?([\w$]+)(?:\[(\d+)\])?\s*$",
    re.S,
)
_DYNAMIC = re.compile(r"\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[\];")
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d+)\]")
_STEP = re.compile(r"\s*(?:([{}])|([\w$]+:)|([^;{}][^;]*);)")


def parse(text: str, name: str) -> Module:
    """The entries of a file `name`, as they stand there."""
    text = re.sub(r"//[^\n]*", "", text)
    entries = []
    for head in _ENTRY.finditer(text):
        line = text.count("\n", 0, head.start()) + 1
        limit = re.search(r"\.maxntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", head[3])
        if not limit:
            raise PtxError(
                f"{name}:{line}: entry {head[1]} has no .maxntid: give the kernel launch bounds"
            )
        threads = 1
        for size in limit.groups("1"):
            threads *= int(size)
        parameters = {}
        for written in filter(str.strip, head[2].split(",")):
            found = _PARAMETER.search(written)
            if not found:
                raise PtxError(
                    f"{name}:{line}: entry {head[1]}: unknown kind of parameter {written.strip()!r}"
                )
            parameters[found[2]] = int(found[3] or 1) * int(found[1][1:]) // 8
        entry = Entry(head[1], line, threads, parameters, [])
        for step in _body(text, head.end(), name):
            variable = _SHARED.fullmatch(step.text)
            if variable:
                entry.shared.append(Shared(variable[2], int(variable[1]), int(variable[3])))
            else:
                entry.body.append(step)
        entries.append(entry)
    return Module(name, frozenset(_DYNAMIC.findall(text)), entries)


def _body(text: str, begin: int, name: str) -> Iterator[Statement]:
    """Yield the statements after the brace before `begin`, up to the one that closes it."""
    depth, line, counted = 1, text.count("\n", 0, begin) + 1, begin
    while True:
        step = _STEP.match(text, begin)
        if not step:
            raise PtxError(f"{name}:{line}: the body of an entry has no end")
        kind = step.lastindex or 0
        line += text.count("\n", counted, step.start(kind))
        counted = step.start(kind)
        begin = step.end()
        depth += {"{": 1, "}": -1}.get(step[kind], 0)
        if depth == 0:
            return
        yield Statement(" ".join(step[kind].split()), line)


def _operands(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets and braces."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text)]


class _Translator:
    """Makes the C++ of one entry."""

    def __init__(self, module: Module, entry: Entry) -> None:
        self._module, self._entry = module, entry
        self._symbols = module.dynamic | {variable.name for variable in entry.shared}
        self._declared: set[str] = set()  # registers
        self._line = entry.line

    def _error(self, what: str) -> PtxError:
        return PtxError(f"{self._module.name}:{self._line}: entry {self._entry.name}: {what}")

    def function(self, name: str) -> str:
        """The definition of a function `name`, whose lines are those of the entry."""
        parts = [
            f'#line {self._entry.line} "{self._module.name}"\n',
            f"void {name}([[maybe_unused]] void** parameters) {{",
            "[[maybe_unused]] char* const window = shared_window();",
        ]
        for variable, alignment, size in self._entry.shared:
            address = f"address_of_variable<{size}, {alignment}>(window, [] {{}})"
            parts.append(f"[[maybe_unused]] const uint32_t {_name(variable)} = {address};")
        for symbol in sorted(self._module.dynamic):
            parts.append(f"[[maybe_unused]] const uint32_t {_name(symbol)} = kDynamicAddress;")
        line = self._entry.line
        for step in self._entry.body:
            parts.append("\n" * max(step.line - line, 0))
            line, self._line = max(step.line, line), step.line
            parts.append(self._step(step.text))
        return " ".join(parts) + "\n}\n"

    def _step(self, text: str) -> str:
        if text in "{}":
            return text
        if text.endswith(":"):
            return f"{_name(text[:-1])}:;"
        if text.startswith(".pragma"):
            return ""
        if text.startswith(".reg"):
            return self._registers(text)
        guard = re.match(r"@(!?)(%[\w$]+)\s+", text)
        if guard:
            return (
                f"if ({guard[1]}{_name(guard[2])}) {{ {self._instruction(text[guard.end() :])} }}"
            )
        return self._instruction(text)

    def _registers(self, text: str) -> str:
        found = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text)
        if not found or found[1] not in C_TYPES:
            raise self._error(f"registers of no known kind: {text}")
        names = []
        for written in found[2].split(","):
            stem, several, count = written.strip(" >").partition("<")
            names += [f"{stem}{k}" for k in range(int(count))] if several else [stem]
        self._declared.update(names)
        declared = ", ".join(f"{_name(register)} = {{}}" for register in names)
        return f"[[maybe_unused]] {C_TYPES[found[1]]} {declared};"

    def _instruction(self, text: str) -> str:
        opcode, _, rest = text.partition(" ")
        operands = _operands(rest)
        if opcode.startswith("mov."):  # the shape of the operands says what it does
            vectors = [k for k, operand in enumerate(operands) if operand.startswith("{")]
            word = {(0,): "mov.unpack", (1,): "mov.pack"}.get(tuple(vectors))
            if word:
                count = operands[vectors[0]].count(",") + 1
                opcode = f"{word}{count}.{opcode.removeprefix('mov.')}"
        form = OPCODES.get(opcode)
        if not form:
            raise self._error(
                f"unknown opcode {opcode} in {text!r}; tests/gpu/ptx_opcodes.py has the known ones"
            )
        wanted = len([s for s in form.sources if s != "window"]) + bool(form.results)
        if len(operands) != wanted:
            raise self._error(f"{len(operands)} operands in {text!r}, expected {wanted}")
        given = iter(operands[bool(form.results) :])
        arguments: list[str] = []
        for kind in form.sources:
            arguments += ["window"] if kind == "window" else self._source(next(given), kind)
        if form.function == "goto":
            return f"goto {arguments[0]};"
        if form.function == "return":
            return "return;"
        call = f"{form.function}({', '.join(arguments)})"
        return self._assign(operands[0], form.results, call) if form.results else f"{call};"

    def _assign(self, target: str, results: tuple[str, ...], call: str) -> str:
        vector = re.fullmatch(r"\w+\*(\d+)", results[0])
        if not vector and len(results) == 1:
            return f"{_put(target, call)};"
        targets = _operands(target[1:-1]) if vector else target.split("|")
        most = int(vector[1]) if vector else len(results)
        if len(targets) > most or (vector and len(targets) < most):
            raise self._error(f"{len(targets)} results in {target!r}, expected {most}")
        puts = (f"{_put(t, f'std::get<{k}>(found)')};" for k, t in enumerate(targets) if t != "_")
        return f"{{ const auto found = {call}; {' '.join(puts)} }}"

    def _source(self, operand: str, kind: str) -> list[str]:
        vector = re.fullmatch(r"(\w+)\*(\d+)", kind)
        if vector:
            parts = _operands(operand[1:-1])
            if not operand.startswith("{") or len(parts) != int(vector[2]):
                raise self._error(f"{operand!r} is no vector of {vector[2]}")
            return [argument for part in parts for argument in self._source(part, vector[1])]
        if kind == "label":
            return [_name(operand)]
        if kind == "0":
            if operand != "0":
                raise self._error(f"barrier {operand}: only barrier 0 can be executed")
            return []
        if kind.startswith("["):
            return [self._address(operand, kind[1:-1])]
        return [f"take<{C_TYPES[kind]}>({self._value(operand, kind)})"]

    def _value(self, operand: str, kind: str) -> str:
        if operand in SPECIAL_REGISTERS:
            return SPECIAL_REGISTERS[operand]
        if operand in self._declared:
            return _name(operand)
        if operand.startswith("%"):
            raise self._error(
                f"unknown special register {operand}; tests/gpu/ptx_opcodes.py has the known ones"
            )
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", operand):
            return f"uint32_t{{0x{operand[2:]}u}}"
        if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", operand):
            return f"uint64_t{{0x{operand[2:]}u}}"
        if re.fullmatch(r"-?(\d+|0[xX][0-9a-fA-F]+)U?", operand) and not kind.startswith("f"):
            return f"uint64_t{{0x{int(operand.rstrip('U'), 0) % 2**64:x}u}}"
        if operand in self._symbols:
            return f"uint64_t{{{_name(operand)}}}"
        raise self._error(f"unknown operand {operand} of type {kind}")

    def _address(self, operand: str, space: str) -> str:
        found = re.fullmatch(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\d+)\s*)?\]", operand)
        if not found:
            raise self._error(f"unknown address {operand}")
        base, offset = found[1], int(found[2] or 0)
        if space == "param":
            if base not in self._entry.parameters:
                raise self._error(f"unknown parameter {base}")
            place = list(self._entry.parameters).index(base)
            return f"static_cast<char*>(parameters[{place}]) + {offset}"
        value = self._value(base, "u64")
        if space == "shared":
            return f"in_shared(window, static_cast<uint32_t>({value}), {offset})"
        return f"in_memory({value}, {offset})"


def _name(written: str) -> str:
    """A register, label or symbol in C++, where g++ allows $ and nothing else begins with it."""
    return "$" + written.lstrip("%$")


def _put(register: str, value: str) -> str:
    if register == "_":
        return f"(void){value}"
    return f"{_name(register)} = put<decltype({_name(register)})>({value})"


def write(module: Module, folder: Path, parts: int) -> list[Path]:
    """Writes the entries as C++: `parts` files of about the same size and one with their table."""
    head = '#include "ptx_words.h"\nnamespace ptx {\n'
    texts, sizes = [head] * parts, [0] * parts
    declarations, rows = "", ""
    for number, entry in enumerate(module.entries):
        function = f"entry_{number}"
        text = _Translator(module, entry).function(function)
        smallest = sizes.index(min(sizes))
        texts[smallest] += text
        sizes[smallest] += len(text)
        declarations += f"void {function}(void**);\n"
        limits = f"{entry.threads}, {entry.static_shared}"
        of_parameters = ", ".join(map(str, entry.parameters.values()))
        rows += f'{{"{entry.name}", {function}, {limits}, {{{of_parameters}}}}},\n'
    table = f"{declarations}const std::vector<Entry> entries = {{\n{rows}}};\n"
    written = {f"part_{k}": text for k, text in enumerate(texts)}
    written["entries"] = '#include "ptx_entries.h"\nnamespace ptx {\n' + table
    files = []
    for stem, text in written.items():
        path = folder / f"{stem}.cpp"
        path.write_text(text + "}  // namespace ptx\n", encoding="utf-8")
        files.append(path)
    return files
