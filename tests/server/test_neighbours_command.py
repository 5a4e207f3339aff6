"""`python dev.py neighbours` on packs that are written here."""

import os
import sys
from pathlib import Path

import pytest
from quadtree_pack.devtools import neighbours, paths
from quadtree_pack.devtools.running import ExpectedError

# A pack with one node on the model, whose model function wrapper calls the one before it, or not;
# and which may take the hooks of others off.
PATCHING = """
class Weaken:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{"model": ("MODEL",), "factor": ("FLOAT", {{"default": 0.9}})}}}}

    def patch(self, model, factor):
        earlier = model.model_options.get("model_function_wrapper") if {chains} else None
        model = model.clone()
        if {clears}:
            model.wrappers.clear()

        def wrapper(apply_model, args):
            if earlier is not None:
                return factor * earlier(apply_model, args)
            return factor * apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(wrapper)
        return (model,)

NODE_CLASS_MAPPINGS = {{"{node}": Weaken}}
"""
PACKS = {
    "chaining": PATCHING.format(chains=True, clears=False, node="Chain"),
    "replacing": PATCHING.format(chains=False, clears=False, node="Replace"),
    "clearing": PATCHING.format(chains=False, clears=True, node="Clear"),
    "broken": "import a_module_that_is_missing",
}


@pytest.fixture
def make_pack(tmp_path):
    def make(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(PACKS[name], encoding="utf-8")
        return str(tmp_path / name)

    return make


@pytest.fixture
def run(monkeypatch, capfd):
    """Return what runs the command: its exit code, and the lines that tell of a pack."""
    monkeypatch.setattr(paths, "PYTHON", sys.executable)

    def run(*args):
        code = neighbours.neighbours(Path(os.environ["COMFYUI_PATH"]), list(args))
        lines = capfd.readouterr().out.splitlines()
        return code, [line for line in lines if line.split(":")[0] in PACKS]

    return run


def test_packs_are_judged_and_one_that_does_not_load_ends_nothing(make_pack, run, tmp_path):
    table = tmp_path / "table.md"
    packs = make_pack("broken"), make_pack("chaining")
    code, lines = run("--packs", *packs, "--write", str(table))
    problem = "did not load: No module named 'a_module_that_is_missing'"
    assert lines == [f"broken: -: {problem}", "chaining: Chain: right"] and code == 0
    assert table.read_text(encoding="utf-8").splitlines()[-2:] == [
        f"| broken | - | - | - | {problem} |",
        "| chaining | - | - | Chain | right |",
    ]
    assert str(tmp_path) not in table.read_text(encoding="utf-8")


def test_what_is_wrong_is_told_by_the_order_of_the_nodes_and_ends_in_an_error(make_pack, run):
    code, (line,) = run("--packs", make_pack("clearing"))
    assert line.startswith(
        "clearing: Clear: before ours, right; after ours, wrong: kept cells move"
    )
    assert code == 1


def test_a_wrapper_that_replaces_ours_is_right_in_both_orders(make_pack, run):
    assert run("--packs", make_pack("replacing")) == (0, ["replacing: Replace: right"])


def test_a_folder_without_a_pack_is_refused(tmp_path):
    with pytest.raises(ExpectedError, match="holds no pack: __init__"):
        neighbours.neighbours(paths.OWN_COMFYUI, ["--packs", str(tmp_path)])
