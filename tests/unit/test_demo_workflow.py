"""The demo's workflow file, how it becomes a prompt, and what is measured on the results."""

import json
from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image
from quadtree_pack.demo import pictures, prompts, server, summary
from quadtree_pack.demo.folders import DEMO
from safetensors.numpy import save_file

WORKFLOW = json.loads((DEMO / "workflow.json").read_text(encoding="utf-8"))
NODES = {node["id"]: node for node in WORKFLOW["nodes"]}
TITLE_PX = 30  # the bar above a node's own area


# --- The file -------------------------------------------------------------------------------------


def test_node_and_link_ids_are_unique_and_counted():
    link_ids = [link[0] for link in WORKFLOW["links"]]
    assert len(NODES) == len(WORKFLOW["nodes"])
    assert len(set(link_ids)) == len(link_ids)
    assert WORKFLOW["last_node_id"] == max(NODES)
    assert WORKFLOW["last_link_id"] == max(link_ids)


@pytest.mark.parametrize("link", WORKFLOW["links"], ids=lambda link: f"link {link[0]}")
def test_a_link_is_known_at_both_ends_and_has_their_type(link):
    number, source, source_slot, target, target_slot, kind = link
    output = NODES[source]["outputs"][source_slot]
    entry = NODES[target]["inputs"][target_slot]
    assert number in output["links"]
    assert entry["link"] == number
    assert output["type"] == entry["type"] == kind


def test_no_slot_names_a_link_that_is_not_there():
    numbers = {link[0] for link in WORKFLOW["links"]}
    named = {slot["link"] for node in NODES.values() for slot in node["inputs"]} - {None}
    named |= {
        number
        for node in NODES.values()
        for slot in node["outputs"]
        for number in slot["links"] or ()
    }
    assert named == numbers


def test_nodes_do_not_overlap():
    areas = [(*node["pos"], *node["size"]) for node in NODES.values()]
    boxes = [(x, y - TITLE_PX, x + width, y + height) for x, y, width, height in areas]
    for (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) in combinations(boxes, 2):
        assert ax1 <= bx0 or bx1 <= ax0 or ay1 <= by0 or by1 <= ay0


def test_the_demo_keeps_calm_regions_to_the_bit_and_its_photo_is_there():
    values = {node["type"]: node["widgets_values"] for node in NODES.values()}
    threshold, *_, coverage, _batch, _preset = values["QuadtreeVisualizer"]
    assert threshold == 0 and 0 < coverage < 1  # the automatic tree keeps the calmest tiles
    assert (DEMO / values["LoadImage"][0]).is_file()


@pytest.mark.parametrize("kind", server.NODES)
def test_the_workflow_uses_each_of_our_nodes_once(kind):
    assert [node["type"] for node in NODES.values()].count(kind) == 1


# --- From workflow to prompt ----------------------------------------------------------------------

INFO = {
    "Load": {"input": {"required": {"image": [["a.png", "b.png"], {"image_upload": True}]}}},
    "Scale": {
        "input": {
            "required": {"image": ["IMAGE"], "factor": ["FLOAT", {}]},
            "optional": {"mask": ["MASK"]},
        }
    },
    "Sample": {
        "input": {
            "required": {
                "image": ["IMAGE", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {}],
                "name": ["COMBO", {"options": ["euler", "heun"]}],
                "wired": ["INT", {"forceInput": True}],
            },
            "optional": {"late": ["INT", {}]},
        }
    },
    "Save": {"input": {"required": {"image": ["IMAGE"], "prefix": ["STRING", {}]}}},
}


def node(number, kind, values=(), inputs=(), outputs=("IMAGE",), mode=0):
    """A node as a workflow stores it; inputs as (name, type, link)."""
    slots = [{"name": name, "type": slot_type, "link": link} for name, slot_type, link in inputs]
    return {
        "id": number,
        "type": kind,
        "mode": mode,
        "inputs": slots,
        "outputs": [{"name": slot_type, "type": slot_type} for slot_type in outputs],
        "widgets_values": list(values),
    }


def chain(*middle):
    """Load (1) -> the given nodes -> Save (9), linked by their first slots."""
    ends = [
        node(1, "Load", ["a.png", "image"]),
        *middle,
        node(9, "Save", ["out"], [("image", "IMAGE", None)]),
    ]
    links = []
    for number, (source, target) in enumerate(pairwise(ends), start=1):
        target["inputs"][0]["link"] = number
        links.append([number, source["id"], 0, target["id"], 0, "IMAGE"])
    return {"nodes": ends, "links": links}


def test_values_go_to_their_inputs_and_links_name_node_and_slot():
    workflow = chain(node(2, "Scale", [1.5], [("image", "IMAGE", None), ("mask", "MASK", None)]))
    assert prompts.prompt_from_workflow(workflow, INFO) == {
        "1": {"class_type": "Load", "inputs": {"image": "a.png"}},
        "2": {"class_type": "Scale", "inputs": {"image": ["1", 0], "factor": 1.5}},
        "9": {"class_type": "Save", "inputs": {"image": ["2", 0], "prefix": "out"}},
    }


def test_the_value_behind_a_seed_is_the_browsers_own():
    workflow = chain(node(2, "Sample", [7, "randomize", 20, "heun"], [("image", "IMAGE", None)]))
    sample = prompts.prompt_from_workflow(workflow, INFO)["2"]["inputs"]
    assert sample == {
        "image": ["1", 0],
        "seed": 7,
        "steps": 20,
        "name": "heun",
    }  # `late` is newer than the file


def test_a_link_wins_over_the_stored_value_of_its_widget():
    workflow = chain(
        node(2, "Sample", [7, "fixed", 20, "heun"], [("image", "IMAGE", None), ("steps", "INT", 5)])
    )
    workflow["links"].append([5, 1, 1, 2, 1, "INT"])
    sample = prompts.prompt_from_workflow(workflow, INFO)["2"]["inputs"]
    assert sample["steps"] == ["1", 1]
    assert sample["name"] == "heun"


@pytest.mark.parametrize(
    "skipped",
    [
        node(2, "Scale", [1.5], [("image", "IMAGE", None)], mode=prompts.BYPASSED),
        node(2, "Reroute", (), [("", "*", None)]),
    ],
    ids=["bypassed", "reroute"],
)
def test_a_link_goes_through_a_node_that_does_nothing(skipped):
    prompt = prompts.prompt_from_workflow(chain(skipped), INFO)
    assert sorted(prompt) == ["1", "9"]
    assert prompt["9"]["inputs"]["image"] == ["1", 0]


def test_a_bypassed_node_passes_the_input_that_has_its_outputs_type():
    workflow = chain(node(2, "Scale", [1.5], [("image", "IMAGE", None)]))
    workflow["nodes"][1]["inputs"].insert(0, {"name": "mask", "type": "MASK", "link": None})
    workflow["nodes"][1]["mode"] = prompts.BYPASSED
    assert prompts.prompt_from_workflow(workflow, INFO)["9"]["inputs"]["image"] == ["1", 0]


def test_behind_a_muted_node_there_is_no_link():
    muted = node(2, "Scale", [1.5], [("image", "IMAGE", None)], mode=prompts.MUTED)
    prompt = prompts.prompt_from_workflow(chain(muted), INFO)
    assert sorted(prompt) == ["1", "9"]
    assert "image" not in prompt["9"]["inputs"]


def test_notes_stay_in_the_browser_and_unknown_nodes_are_named():
    workflow = chain()
    workflow["nodes"].append(node(5, "MarkdownNote", ["hello"]))
    assert sorted(prompts.prompt_from_workflow(workflow, INFO)) == ["1", "9"]
    workflow["nodes"].append(node(6, "Nobody"))
    with pytest.raises(ValueError, match="Nobody"):
        prompts.prompt_from_workflow(workflow, INFO)


def test_bypass_changes_a_copy():
    workflow = chain(node(2, "Scale", [1.5], [("image", "IMAGE", None)]))
    bypassed = prompts.bypass(workflow, "Scale")
    assert sorted(prompts.prompt_from_workflow(bypassed, INFO)) == ["1", "9"]
    assert sorted(prompts.prompt_from_workflow(workflow, INFO)) == ["1", "2", "9"]


def test_a_removed_node_hands_on_the_input_that_is_named():
    prompt = {
        "1": {"class_type": "A", "inputs": {}},
        "2": {"class_type": "Mix", "inputs": {"one": ["1", 0], "other": ["1", 1]}},
        "3": {"class_type": "Save", "inputs": {"image": ["2", 0], "mask": ["1", 0]}},
    }
    assert prompts.remove_node(prompt, "Mix", through="other") == {
        "1": {"class_type": "A", "inputs": {}},
        "3": {"class_type": "Save", "inputs": {"image": ["1", 1], "mask": ["1", 0]}},
    }
    assert prompt["3"]["inputs"]["image"] == ["2", 0]


def test_only_what_a_node_needs_is_kept():
    workflow = chain(node(2, "Scale", [1.5], [("image", "IMAGE", None)]))
    prompt = prompts.prompt_from_workflow(workflow, INFO)
    assert sorted(prompts.select_needed(prompt, "2")) == ["1", "2"]


# --- The pack's line in the server's log ----------------------------------------------------------


def test_the_last_report_of_the_pack_is_read():
    log = (
        "Quadtree: 5 model calls on 9 windows in 4 steps, 90.0% of the full model cost, "
        "1.0% of the latent kept\n"
        "[INFO] Quadtree: 1 model call on 1 window in 1 step, 38.2% of the full model cost, "
        "41.0% of the latent kept\n"
    )
    assert summary.read_report(log) == summary.Report("1 model call on 1 window in 1 step", 38.2)
    assert summary.read_report("nothing of ours") is None


# --- What is measured -----------------------------------------------------------------------------


@pytest.fixture
def denoise_map(tmp_path):
    """40 x 32 px: a kept leaf of 32 px, and a column of 8 px with denoise 0.6 at the right edge."""
    denoise = np.zeros((32, 40))
    denoise[:, 32:] = 0.6
    Image.fromarray((255 * denoise).astype(np.uint8)).save(tmp_path / "map.png")
    return tmp_path / "map.png"


def test_the_share_of_the_picture_is_told_by_denoise(denoise_map):
    assert pictures.measure_denoise_shares(denoise_map) == pytest.approx({0.0: 0.8, 0.6: 0.2})


def test_one_changed_number_in_a_kept_cell_is_seen(denoise_map, tmp_path):
    before = np.zeros((1, 2, 4, 5), np.float32)
    after = before.copy()
    after[..., 4] = 0.5
    for name, latent in {"before": before, "after": after}.items():
        save_file({"latent_tensor": latent}, tmp_path / name)
    kept = pictures.find_kept_cells(denoise_map, tmp_path / "before")
    assert kept.tolist() == [[True, True, True, True, False]] * 4
    assert pictures.measure_latent_changes(tmp_path / "before", tmp_path / "after", kept) == (
        0,
        0.5,
    )

    after[0, 1, 3, 0] = np.float32(1e-30)
    save_file({"latent_tensor": after}, tmp_path / "after")
    assert pictures.measure_latent_changes(tmp_path / "before", tmp_path / "after", kept)[0] > 0


def test_one_changed_px_in_a_kept_region_is_seen(denoise_map, tmp_path):
    before = Image.new("RGB", (40, 32), (10, 20, 30))
    after = before.copy()
    after.putpixel((39, 0), (200, 0, 0))
    for name, picture in {"before": before, "after": after}.items():
        picture.save(tmp_path / f"{name}.png")
    paths = denoise_map, tmp_path / "before.png", tmp_path / "after.png"
    assert pictures.measure_kept_px_change(*paths) == 0
    after.putpixel((31, 31), (10, 20, 31))
    after.save(paths[2])
    assert pictures.measure_kept_px_change(*paths) == 1


def test_only_equal_px_are_black_in_the_heat_map():
    before = Image.new("RGB", (3, 1), (10, 20, 30))
    after = before.copy()
    after.putpixel((1, 0), (10, 21, 30))
    heat = np.asarray(pictures.draw_heat_map(before, after))[0].max(-1)
    assert heat[[0, 2]].tolist() == [0, 0]
    assert heat[1] > 0
