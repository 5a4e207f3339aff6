"""The documents that a user reads, in parts that tests can hold against the project."""

import ast
import posixpath
import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md", "docs/guide.md", "docs/benchmarks.md")
}
README = DOCUMENTS["README.md"]
CONTRIBUTING = DOCUMENTS["CONTRIBUTING.md"]
MEASURED = DOCUMENTS["docs/benchmarks.md"]
GUIDE = DOCUMENTS["docs/guide.md"]
BENCHMARKS = ast.literal_eval(
    re.search(
        r"^NAMES = (\(.*?\))",
        (ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )[1]
)
REPOSITORY = "quadtree-diffusion/comfyui-quadtree-diffusion"
# How the absolute URL of a file in this repository begins: as a page, and as the file itself.
OWN_URLS = (
    f"https://github.com/{REPOSITORY}/blob/main/",
    f"https://raw.githubusercontent.com/{REPOSITORY}/main/",
)
INLINE_LINK = re.compile(r"\]\(([^)\s]+)\)")
REFERENCE_LINK = re.compile(r"\]\[([^\]]+)\]")
REFERENCE = re.compile(r"^\[([^\]]+)\]: (\S+)$", re.MULTILINE)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_in(text):
    """Return the words after `python dev.py` of every command in a text."""
    found = re.findall(r"python dev\.py ([^\n`]+)", text)
    return [re.split(r"\s{2,}", line)[0].split() for line in found]


def targets_in(text):
    """Return the targets of all links in a text; KeyError for a reference that is not defined."""
    references = dict(REFERENCE.findall(text))
    named = [references[name] for name in REFERENCE_LINK.findall(text)]
    return INLINE_LINK.findall(text) + named


def locate(document, target):
    """Return the path in the repository that a link of a document leads to, and its heading.

    The path is relative to the root, also of an absolute URL of this repository; it is None for
    any other site. The heading is "" where the link names none.
    """
    place, _, anchor = target.partition("#")
    for prefix in OWN_URLS:
        if place.startswith(prefix):
            return unquote(place.removeprefix(prefix)), anchor
    if "://" in place:
        return None, anchor
    if not place:
        return document, anchor
    if re.fullmatch(r"web/docs/\w+/\w+\.md", document):  # the frontend's folder for pictures
        document = posixpath.dirname(document)
    return posixpath.normpath(f"{posixpath.dirname(document) or '.'}/{unquote(place)}"), anchor


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
