"""Requirements files: read, compared with versions as pip does, and merged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Requirement:
    """One line of a requirements file: normalised name, version clauses as written, the line
    itself."""

    name: str
    clauses: str
    line: str


def read_requirements(path: Path) -> list[Requirement]:
    """Read all lines but blank ones and comments; one that is not `name clauses ; marker` has an
    empty name."""
    requirements = []
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        match = re.match(r"([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*([<>=!~][^;]*)?(;.*)?$", line)
        name = re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""
        if line:
            requirements.append(Requirement(name, (match[2] or "").strip() if match else "", line))
    return requirements


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version without trailing zeros: (2, 10) for 2.10.0+cpu."""
    start = re.match(r"[\d.]*", version)
    numbers = [int(number) for number in (start[0] if start else "").split(".") if number]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def begins(version: str, prefix: str) -> bool:
    wanted = [int(number) for number in re.findall(r"\d+", prefix)]
    have = [*release(version), *[0] * len(wanted)]
    return have[: len(wanted)] == wanted


COMPARE: dict[str, Callable[[str, str], bool]] = {
    "===": lambda have, want: have == want,
    "==": lambda have, want: (
        begins(have, want[:-2]) if want.endswith(".*") else release(have) == release(want)
    ),
    "!=": lambda have, want: not COMPARE["=="](have, want),
    ">=": lambda have, want: release(have) >= release(want),
    "<=": lambda have, want: release(have) <= release(want),
    ">": lambda have, want: release(have) > release(want),
    "<": lambda have, want: release(have) < release(want),
    "~=": lambda have, want: (
        release(have) >= release(want) and begins(have, want.rpartition(".")[0])
    ),
}


def allows(clauses: str, version: str) -> bool:
    """Return whether version clauses such as `>=1.2,<2` allow a release version."""
    for clause in filter(None, (part.strip() for part in clauses.split(","))):
        match = re.match(r"(===|==|!=|>=|<=|~=|>|<)\s*(.*)", clause)
        if match is None or not COMPARE[match[1]](version, match[2].strip()):
            return False
    return True


def merged_requirements(ours: list[Requirement], theirs: list[Requirement]) -> list[Requirement]:
    """Narrow what ComfyUI asks for to our pins, where it allows them: one line for each name."""
    clauses = {one.name: one.clauses for one in theirs}
    excluded = {
        pin.name
        for pin in ours
        if not allows(clauses.get(pin.name, ""), pin.clauses.removeprefix("=="))
    }
    pins = [pin for pin in ours if pin.name not in excluded]
    pinned = {pin.name for pin in pins}
    return [one for one in theirs if one.name not in pinned] + pins
