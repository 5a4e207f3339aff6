"""The documents that a user reads, in parts that tests can hold against the project."""

import ast
import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md", "docs/guide.md")
}
GUIDE = DOCUMENTS["docs/guide.md"]
BENCHMARKS = ast.literal_eval(
    re.search(
        r"^NAMES = (\(.*?\))",
        (ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8"),
        re.MULTILINE,
    )[1]
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_in(text):
    """Return the words after `python dev.py` of every command in a text."""
    found = re.findall(r"python dev\.py ([^\n`]+)", text)
    return [re.split(r"\s{2,}", line)[0].split() for line in found]


def workflows(text):
    """Return the links of every code block that draws chains of nodes.

    A link is (source, target, the input's name or ""); links to named inputs come first.
    """
    blocks = [block for language, block in FENCED.findall(text) if not language and " -> " in block]
    return [sorted(links(block), key=lambda link: not link[2]) for block in blocks]


def links(block):
    found = []
    for line in block.splitlines():
        nodes = [
            re.fullmatch(r"(.*?)(?: \[(\w+)\])?", node).groups(default="")
            for node in line.split(" -> ")
        ]
        found += [(source, target, name) for (source, _), (target, name) in pairwise(nodes)]
    return list(dict.fromkeys(found))


def rows(text, heading):
    """Return the rows of the table whose headings begin with `heading`, as lists of cells."""
    table = re.search(rf"^\| {re.escape(heading)}.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
