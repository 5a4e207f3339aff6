"""Imports go down only: nothing of a floor knows what lies above it, and no test knows another."""

import ast

import pytest
from quadtree_pack.testing.registration import ROOT, pack_files

# From the ground up. What shares a floor may import each other; a room (a folder) is named by its
# folder.
FLOORS = (
    {"utils"},
    {"velocity", "tree"},
    {"quadtree"},
    {"windows"},
    {"sampling", "image"},
    {"tiled_diffusion", "ui"},
    {"cluster"},
    {"nodes"},
    {"__init__"},
)
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}


def place_of(path):
    """Return the room of a file, or its own name where it lies at the top."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported_places(path):
    """Yield the room, or the module at the top, of each relative import in a file."""
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            up = node.level == depth
            yield node.module.split(".")[0] if up else place_of(path)


@pytest.mark.parametrize("path", pack_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_from_its_own_floor_and_below(path):
    own = place_of(path)
    for place in imported_places(path):
        assert place == own or FLOOR_OF[place] < FLOOR_OF[own], f"{own} imports {place}"


@pytest.mark.parametrize("path", pack_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_ray_is_imported_only_by_what_is_called(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not any(name.split(".")[0] == "ray" for name in names)


def test_no_test_module_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.level and not node.module.startswith("quadtree_pack.tests"), path
