"""What the devices say to each other in a step, read from the compiled program's text (HLO)."""

import math
import re
from collections import Counter, defaultdict
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

NAME = r"%?([\w.\-]+)"
COMPUTATION = re.compile(rf"^(ENTRY )?{NAME} \(.*\{{$")
INSTRUCTION = re.compile(rf"^\s+(?:ROOT )?{NAME} = (.*?) ([a-z][\w\-]*)\(([^)]*)")
ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
CALLED = re.compile(r"\b(?:calls|to_apply|body|branch_computations|called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))")
KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Traffic(NamedTuple):
    """One kind of collective in one step, as each device sees it."""

    number: int  # of executions, those in loops once a turn
    bytes: int  # of the whole arrays that are summed, gathered or exchanged; what crosses the wires depends on the ring


class _Computation:
    def __init__(self) -> None:
        self.own: list[tuple[str, int]] = []  # (kind, bytes) of each collective
        self.calls: list[tuple[str, int]] = []  # (computation, how often)


def count_collectives(text: str) -> dict[str, Traffic]:
    """Each kind that the program has, with its executions and bytes in one run of it on one device.

    What stands in a loop counts as often as the loop turns: by what the compiler notes beside it, else by the
    constant that its condition compares the counter with. A loop that tells neither counts once, and each branch of
    a condition counts.
    """
    lines = _lines(text)
    types = {match[1]: match[2] for matches in lines.values() for _, match in matches}
    computations: dict[str, _Computation] = defaultdict(_Computation)
    for name, matches in lines.items():
        for line, match in matches:
            kind = match[3].removesuffix("-start")
            if kind in KINDS:
                computations[name].own.append((kind, _collective_bytes(kind, match, types)))
            elif not match[3].endswith(("-update", "-done")):
                trips = _trips(line, lines) if kind == "while" else 1
                computations[name].calls += [(called, trips) for called in _called(line)]
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()

    def walk(name: str, times: int) -> None:
        for kind, size in computations[name].own:
            counts[kind] += times
            sizes[kind] += times * size
        for called, trips in computations[name].calls:
            walk(called, times * trips)

    walk("ENTRY", 1)
    return {kind: Traffic(counts[kind], sizes[kind]) for kind in KINDS if counts[kind]}


def array_bytes(types: str) -> int:
    """The bytes of all arrays in a type, tuples included."""
    total = 0
    for dtype, dims in ARRAY.findall(types):
        bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
        total += math.prod(int(dim) for dim in dims.split(",") if dim) * bits // 8
    return total


def _lines(text: str) -> dict[str, list[tuple[str, re.Match[str]]]]:
    """The instructions of each computation; that of the program itself is called ENTRY."""
    found: dict[str, list[tuple[str, re.Match[str]]]] = defaultdict(list)
    name = ""
    for line in text.splitlines():
        if opening := COMPUTATION.match(line):
            name = "ENTRY" if opening[1] else opening[2]
        elif match := INSTRUCTION.match(line):
            found[name].append((line, match))
    return found


def _collective_bytes(kind: str, match: re.Match[str], types: dict[str, str]) -> int:
    """Of the result where parts are gathered, else of what goes in, of which the result may be a part."""
    given = sum(array_bytes(types[name]) for name in re.findall(r"%([\w.\-]+)", match[4]))
    if kind != "all-gather":
        return given
    result = array_bytes(match[2])
    # The first half of an asynchronous pair has its operands in its result.
    return result - given if match[3].endswith("-start") else result


def _called(line: str) -> list[str]:
    """The computations that an instruction runs."""
    return [name.strip().lstrip("%") for many, one in CALLED.findall(line) for name in (many or one).split(",")]


def _trips(line: str, lines: dict[str, list[tuple[str, re.Match[str]]]]) -> int:
    """How often a loop turns."""
    if known := KNOWN_TRIPS.search(line):
        return int(known[1])
    condition = re.search(rf"\bcondition={NAME}", line)
    inside = _inside(condition[1], lines) if condition else []
    limits = [int(n) for text in inside for n in re.findall(r"= s32\[\]\S* constant\((\d+)\)", text)]
    counts_up = any("compare(" in text and "direction=LT" in text for text in inside)
    return limits[0] if counts_up and len(limits) == 1 else 1


def _inside(name: str, lines: dict[str, list[tuple[str, re.Match[str]]]]) -> list[str]:
    """The lines of a computation and of those that it runs."""
    own = [line for line, _ in lines[name]]
    return own + [line for text in own for called in _called(text) for line in _inside(called, lines)]
