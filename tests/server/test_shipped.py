"""What the pack brings besides its nodes, on the real server: example workflows, a blueprint,
translations, pictures."""

import io
import json
import os
import re
import site
import sys
import urllib.error
import urllib.parse
import urllib.request
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from quadtree_pack import demo
from quadtree_pack.devtools import commands, paths
from quadtree_pack.sampling.cost import estimate_typical_cost
from quadtree_pack.sampling.model import TYPICAL_STEPS
from quadtree_pack.testing.api import PACK, fetch, get, with_tiny_model
from quadtree_pack.testing.photos import photo
from quadtree_pack.testing.shipped import (
    BLUEPRINT,
    EXAMPLES,
    INPUTS,
    OUTPUTS,
    inner_graph,
    open_blueprint,
)
from quadtree_pack.tree.detail import BlockSums
from quadtree_pack.ui.building import build_tree

ROOT = demo.ROOT
NODES = (
    "QuadtreeVisualizer",
    "QuadtreeDiffusion",
    "QuadtreeComposite",
    "QuadtreeInfo",
    "QuadtreeVAEDecode",
    "QuadtreeCluster",
    "QuadtreeCrops",
    "QuadtreePrompts",
)
PICTURED = NODES[:3]
LANGUAGES = ("en", "zh", "ja")
TEXTS = {
    language: json.loads(
        (ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")
    )
    for language in LANGUAGES
}
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("web/docs/*.md")}

TITLE_PX = 30  # the bar above a node's own area
FILES = re.compile(r"\.(safetensors|png)$|^$")  # no file: of a clip, which a user selects


@pytest.fixture(scope="session")
def object_info(running):
    return get(running, "/object_info")


def all_graphs():
    return {**EXAMPLES, "Quadtree Upscale": inner_graph()}


graphs = pytest.mark.parametrize("graph", all_graphs().values(), ids=all_graphs())


def real_nodes(graph):
    return [node for node in graph["nodes"] if node["type"] not in demo.VIRTUAL]


def inputs_of(info):
    """Name -> (type, options); COMBO for a list of choices, which are then its options. Without
    what only shows something, which has no slot."""
    found = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            if options.get("socketless"):
                continue
            found[name] = (
                ("COMBO", {**options, "options": kind})
                if isinstance(kind, list)
                else (kind, options)
            )
    return found


# --- The graphs against the nodes that the server has ---------------------------------------------


@graphs
def test_every_node_is_one_of_the_server_s_and_has_its_slots(graph, object_info):
    for node in real_nodes(graph):
        info = object_info[node["type"]]
        assert node["properties"]["cnr_id"] == (
            "quadtree-diffusion" if node["type"] in NODES else "comfy-core"
        )
        assert {slot["name"]: slot["type"] for slot in node["inputs"]} == {
            name: kind for name, (kind, _) in inputs_of(info).items()
        }
        assert [(slot["name"], slot["type"]) for slot in node["outputs"]] == list(
            zip(info["output_name"], info["output"], strict=True)
        )


@graphs
def test_every_link_joins_two_slots_of_its_type_that_know_it(graph):
    nodes = {node["id"]: node for node in graph["nodes"]}
    named = [
        slot["link"]
        for node in real_nodes(graph)
        for slot in node["inputs"]
        if slot["link"] is not None
    ]
    named += [
        link for node in real_nodes(graph) for slot in node["outputs"] for link in slot["links"]
    ]
    named += [
        link
        for side in ("inputs", "outputs")
        for slot in graph.get(side, ())
        for link in slot["linkIds"]
    ]
    assert sorted(named) == sorted([link[0] for link in graph["links"]] * 2)
    for number, source, source_slot, target, target_slot, kind in graph["links"]:
        output = (graph["inputs"] if source == INPUTS else nodes[source]["outputs"])[source_slot]
        entry = (graph["outputs"] if target == OUTPUTS else nodes[target]["inputs"])[target_slot]
        assert number in (output["linkIds"] if source == INPUTS else output["links"])
        assert number in entry["linkIds"] if target == OUTPUTS else number == entry["link"]
        assert output["type"] == kind and entry["type"] in (kind, "*")


@graphs
def test_every_value_fits_its_widget_and_none_is_left_over(graph, object_info):
    for node in real_nodes(graph):
        info = object_info[node["type"]]
        inputs = inputs_of(info)
        values = {
            name: value
            for name, value in demo.read_widget_values(node, info).items()
            if name in inputs
        }
        widgets = [slot["name"] for slot in node["inputs"] if "widget" in slot]
        assert sorted(values) == sorted(widgets)
        own = node["type"] in (
            "KSampler",
            "LoadImage",
            "LoadVideo",
        )  # the browser's: what follows a seed, and an upload
        assert len(node["widgets_values"]) == len(widgets) + own
        for name, value in values.items():
            kind, options = inputs[name]
            if kind == "COMBO":
                assert value in options["options"] or FILES.search(value), (
                    node["type"],
                    name,
                    value,
                )
            elif kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"], (node["type"], name, value)
            else:
                assert isinstance(value, bool if kind == "BOOLEAN" else str)


@graphs
def test_every_input_that_a_node_needs_is_linked(graph, object_info):
    for node in real_nodes(graph):
        needed = {
            name: rest
            for name, rest in object_info[node["type"]]["input"]["required"].items()
            if name in inputs_of(object_info[node["type"]])
        }
        open_slots = [
            slot["name"] for slot in node["inputs"] if slot["link"] is None and "widget" not in slot
        ]
        assert not set(open_slots) & set(needed), node["type"]


@pytest.mark.parametrize("graph", EXAMPLES.values(), ids=EXAMPLES)
def test_the_server_itself_misses_nothing_but_the_models(graph, running, object_info):
    prompt = demo.prompt_from_workflow(graph, object_info)
    request = urllib.request.Request(
        running.url + "/prompt",
        json.dumps({"prompt": prompt}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            refused = json.load(answer)["node_errors"]
    except urllib.error.HTTPError as error:
        refused = json.load(error)["node_errors"]
    assert refused
    for node in refused.values():
        for error in node["errors"]:
            assert error["type"] == "value_not_in_list", error
            assert FILES.search(error["extra_info"]["received_value"]), error


@graphs
def test_nodes_and_groups_lie_apart(graph):
    boxes = [(*node["pos"], *node["size"]) for node in graph["nodes"]]
    boxes = [(x, y - TITLE_PX, x + width, y + height) for x, y, width, height in boxes]
    groups = [
        (x, y, x + width, y + height)
        for x, y, width, height in (group["bounding"] for group in graph["groups"])
    ]
    for one, other in [*combinations(boxes, 2), *combinations(groups, 2)]:
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for box, node in zip(boxes, graph["nodes"], strict=True):
        around = [
            g for g in groups if g[0] < box[0] and g[1] < box[1] and box[2] < g[2] and box[3] < g[3]
        ]
        assert len(around) == (bool(groups) and node["type"] not in demo.VIRTUAL), node["type"]


# --- How they are made, found and opened ----------------------------------------------------------


def test_the_templates_are_those_that_the_command_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PYTHON", sys.executable)
    comfyui = Path(os.environ["COMFYUI_PATH"])
    assert commands.COMMANDS["templates"].run(comfyui, ["--into", str(tmp_path)]) == 0
    made = {path.name: path.read_bytes() for path in tmp_path.glob("example_workflows/*.json")}
    kept = {path.name: path.read_bytes() for path in ROOT.glob("example_workflows/*.json")}
    assert made == kept


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_template_is_found_by_the_pack_s_name_and_may_be_named_by_an_address(name):
    assert re.fullmatch(r"Quadtree-[a-zA-Z0-9_-]+", name)


@pytest.mark.parametrize("graph", EXAMPLES.values(), ids=EXAMPLES)
def test_every_model_is_offered_for_download_and_nothing_else_is_missing(graph, object_info):
    """The browser takes a file's name, address and folder from the node that loads it."""
    for node in real_nodes(graph):
        named = [
            value
            for value in node["widgets_values"]
            if isinstance(value, str) and value.endswith(".safetensors")
        ]
        models = node["properties"].get("models", ())
        assert [model["name"] for model in models] == named
        for model in models:
            assert model["url"].startswith("https://huggingface.co/")
            assert "/resolve/main/" in model["url"] and model["url"].endswith("/" + model["name"])


def test_the_files_that_are_offered_are_those_of_comfyui_s_own_templates():
    """But for the tile ControlNet, of which ComfyUI has no template."""
    offered = {
        model["url"]
        for graph in EXAMPLES.values()
        for node in graph["nodes"]
        for model in node["properties"].get("models", ())
    }
    (own,) = (url for url in offered if "sd15_tile" in url)
    texts = [path.read_text(encoding="utf-8") for path in own_templates()]
    assert len(texts) > 100
    assert [url for url in offered - {own} if not any(url in text for text in texts)] == []


def own_templates():
    """ComfyUI's own templates, which are installed beside it."""
    packages = [Path(place) for place in site.getsitepackages()]
    return [
        path
        for package in packages
        for path in package.glob("comfyui_workflow_templates_*/templates/*.json")
    ]


# --- They run: the demo's tiny model in the place of the files that are not here ------------------


def saved_picture(running, run):
    """The picture that a run saved."""
    (place,) = (
        image
        for output in run.outputs.values()
        for image in output.get("images", ())
        if image["type"] == "output"
    )
    query = urllib.parse.urlencode(
        {"filename": place["filename"], "subfolder": place["subfolder"], "type": "output"}
    )
    with urllib.request.urlopen(f"{running.url}/view?{query}") as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


ENLARGED, AS_IT_WAS, HALVED = (960, 640), (480, 320), (240, 160)
SIZES = {
    "Quadtree-Flux-upscale": HALVED,  # its upscale model would have made it four times as large
    "Quadtree-keep-the-face": AS_IT_WAS,
    "Quadtree-inpaint-4K": AS_IT_WAS,
    "Quadtree-Wan-video-upscale": None,  # a clip
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_to_its_picture(name, running, object_info):
    prompt = with_tiny_model(demo.prompt_from_workflow(EXAMPLES[name], object_info))
    kinds = {node["class_type"] for node in prompt.values()}
    assert {"QuadtreeVisualizer", "QuadtreeDiffusion", "ImageCompare"} <= kinds
    assert {"QuadtreeComposite", "QuadtreeVAEDecode"} & kinds, "kept pixels are the original's"
    run = demo.run_prompt(running.url, prompt)
    size = SIZES.get(name, ENLARGED)
    if size:
        assert saved_picture(running, run).size == size
    compared = run.outputs[demo.find_node(prompt, "ImageCompare")]
    assert len(compared["a_images"]) == len(compared["b_images"]) > 0


def test_every_node_is_in_a_template():
    """But for the one that needs other machines."""
    used = {node["type"] for graph in EXAMPLES.values() for node in graph["nodes"]}
    assert set(NODES) - used == {"QuadtreeCluster"}


def test_the_template_that_tells_what_is_kept_tells_it(running, object_info):
    prompt = with_tiny_model(
        demo.prompt_from_workflow(EXAMPLES["Quadtree-SDXL-upscale"], object_info)
    )
    run = demo.run_prompt(running.url, prompt)
    (text,) = run.outputs[demo.find_node(prompt, "PreviewAny")]["text"]
    assert re.search(r"kept.*\d+%", text) and "24 steps" in text, text


FACE = (10, 90, 60, 230)  # left, top, right and bottom in px; full of detail


def refine_with_face(running, object_info, picture):
    """The pixels that "keep the face" makes of an input picture, [H, W, 3]."""
    graph = EXAMPLES["Quadtree-keep-the-face"]
    prompt = with_tiny_model(demo.prompt_from_workflow(graph, object_info))
    prompt[demo.find_node(prompt, "LoadImage")]["inputs"]["image"] = picture
    return np.asarray(saved_picture(running, demo.run_prompt(running.url, prompt)))


def test_keep_the_face_keeps_every_pixel_of_the_painted_face(base, running, object_info):
    """And refines around it, and the face too where it is not painted."""
    picture = Image.open(demo.DEMO / "photo.png").convert("RGB")
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, FACE)  # what was painted in the mask editor
    original = np.asarray(picture).copy()
    picture.putalpha(alpha)
    picture.save(base / "input" / "face.png")
    left, top, right, bottom = FACE
    face = np.s_[top:bottom, left:right]
    kept = refine_with_face(running, object_info, "face.png")
    assert np.array_equal(kept[face], original[face])
    assert not np.array_equal(kept, original)
    refined = refine_with_face(running, object_info, "example.png")
    assert (refined[face] != original[face]).any(-1).mean() > 0.3


def test_the_blueprint_runs_with_the_values_of_its_own_widgets(running, object_info):
    assert BLUEPRINT["nodes"][0]["widgets_values"][0] == 2.0, "scale_by"
    prompt = open_blueprint(object_info, steps=2)
    assert saved_picture(running, demo.run_prompt(running.url, prompt)).size == (960, 640)


# --- The tree that they show ----------------------------------------------------------------------

LONG_SIDE_PX = 2048
TREE_INPUTS = {
    "min_tile_size": "min_tile_px",
    "max_tile_size": "max_tile_px",
    "cost_budget": "budget",
}
NOT_OF_THE_TREE = ("line_thickness", "regions", "batch", "preset")


@graphs
def test_a_photo_is_kept_and_refined_in_part_for_at_most_60_percent_of_the_cost(graph, object_info):
    (node,) = (one for one in graph["nodes"] if one["type"] == "QuadtreeVisualizer")
    values = demo.read_widget_values(node, object_info[node["type"]])
    inputs = {
        TREE_INPUTS.get(name, name): value
        for name, value in values.items()
        if name not in NOT_OF_THE_TREE
    }
    image = photo("coffee", LONG_SIDE_PX)
    sums = BlockSums.of_image(image, edges=True, octaves=True)
    tree, _ = build_tree(sums, mask=None, **inputs)
    denoise = tree.denoise_map(*(side // 8 for side in image.shape[:2]))
    assert 0.25 < (denoise == 0).double().mean() < 0.75
    assert estimate_typical_cost(tree, TYPICAL_STEPS) <= 0.6


# --- The blueprint's outside ----------------------------------------------------------------------


def test_the_blueprint_s_only_node_shows_the_inputs_and_values_of_its_inside(object_info):
    (host,) = BLUEPRINT["nodes"]
    inside = inner_graph()
    assert host["type"] == inside["id"] and host["title"] == inside["name"] == "Quadtree Upscale"
    for side in ("inputs", "outputs"):
        assert [(slot["name"], slot["type"]) for slot in host[side]] == [
            (s["name"], s["type"]) for s in inside[side]
        ]
    nodes = {node["id"]: node for node in inside["nodes"]}
    inner = {}
    for link in inner_graph()["links"]:
        if link[1] == INPUTS:
            node = nodes[link[3]]
            name = node["inputs"][link[4]]["name"]
            inner[inside["inputs"][link[2]]["name"]] = demo.read_widget_values(
                node, object_info[node["type"]]
            ).get(name)
    assert [inner[slot["name"]] for slot in host["inputs"] if "widget" in slot] == host[
        "widgets_values"
    ]
    ids = [slot["id"] for side in ("inputs", "outputs") for slot in inside[side]]
    assert len(set(ids)) == len(ids)


# --- What the server lists and serves -------------------------------------------------------------


def test_the_server_lists_the_examples_and_serves_each_with_its_thumbnail(running):
    assert sorted(get(running, "/api/workflow_templates")[PACK]) == sorted(EXAMPLES)
    for name, workflow in EXAMPLES.items():
        assert get(running, f"/api/workflow_templates/{PACK}/{name}.json") == workflow
        picture = fetch(running, f"/api/workflow_templates/{PACK}/{name}.jpg")
        assert Image.open(io.BytesIO(picture)).size == (256, 256)
        assert len(picture) < 12_000


def test_the_server_lists_the_blueprint_and_gives_it_out(running):
    listed = get(running, "/api/global_subgraphs")
    ((key, entry),) = (
        (k, e) for k, e in listed.items() if e["info"]["node_pack"] == f"custom_nodes.{PACK}"
    )
    assert entry["name"] == "Quadtree Upscale"
    assert json.loads(get(running, f"/api/global_subgraphs/{key}")["data"]) == BLUEPRINT


@pytest.mark.parametrize("page", PICTURED)
def test_a_help_page_s_pictures_are_served_small_and_described(running, page):
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", PAGES[page])
    assert pictures
    for words, name in pictures:
        assert len(words) > 20
        data = fetch(running, f"/extensions/{PACK}/docs/{name}")
        assert len(data) < 60_000
        Image.open(io.BytesIO(data)).verify()


@pytest.mark.parametrize("language", LANGUAGES[1:])
@pytest.mark.parametrize("node", NODES)
def test_a_help_page_is_translated_with_every_input_and_picture(
    node, language, running, object_info
):
    """The frontend asks for NODE/LANGUAGE.md, and for pictures beside the English page."""
    text = fetch(running, f"/extensions/{PACK}/docs/{node}/{language}.md").decode()
    named = set(re.findall(r"^\| (\w+)", text, re.MULTILINE))
    assert inputs_of(object_info[node]).keys() | set(object_info[node]["output_name"]) <= (
        named | ({"MODEL"} if node == "QuadtreeDiffusion" else set())
    )
    assert re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", text)
    pictures = re.compile(r"\]\((\w+\.webp)\)")
    assert pictures.findall(text) == pictures.findall(PAGES[node])


def test_no_shipped_file_names_a_machine_s_folder():
    for path in (
        *ROOT.glob("example_workflows/*.json"),
        *ROOT.glob("subgraphs/*.json"),
        *ROOT.glob("locales/*/*.json"),
    ):
        assert not re.search(
            r"/(home|root|tmp|work|Users)/|[A-Z]:\\\\", path.read_text(encoding="utf-8")
        ), path


# --- Translations ---------------------------------------------------------------------------------


def test_the_server_gives_out_all_languages(running):
    served = get(running, "/api/i18n")
    for language in LANGUAGES:
        assert {node: served[language]["nodeDefs"][node] for node in NODES} == TEXTS[language]


def test_english_says_what_the_nodes_say(object_info):
    expected = {}
    for node in NODES:
        info = object_info[node]
        outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
        expected[node] = {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": {
                name: {"name": name, "tooltip": options["tooltip"]}
                for name, (_, options) in inputs_of(info).items()
            },
            "outputs": {
                str(slot): {"name": name, "tooltip": text}
                for slot, (name, text) in enumerate(outputs)
            },
        }
    assert TEXTS["en"] == expected


def leaves(tree, path=()):
    """Path -> text of a nested dict."""
    if isinstance(tree, str):
        return {path: tree}
    return {
        key: text
        for name, part in tree.items()
        for key, text in leaves(part, (*path, name)).items()
    }


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_a_translation_is_complete_and_no_longer_english(language):
    english, texts = leaves(TEXTS["en"]), leaves(TEXTS[language])
    assert texts.keys() == english.keys()
    for path, text in texts.items():
        assert re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", text), path


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("choice", ["method", "schedule"])
def test_the_choices_of_a_widget_are_explained_by_the_names_it_shows(language, choice, object_info):
    text = TEXTS[language]["QuadtreeDiffusion"]["inputs"][choice]["tooltip"]
    assert [
        name
        for name in inputs_of(object_info["QuadtreeDiffusion"])[choice][1]["options"]
        if name not in text
    ] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_holds_nothing_that_the_frontend_takes_for_a_placeholder(language):
    """Names and descriptions go through vue-i18n's message compiler; tooltips are shown as they
    are."""
    for path, text in leaves(TEXTS[language]).items():
        assert path[-1] == "tooltip" or not set(text) & set("@{}|%"), path
