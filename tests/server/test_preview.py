"""The live preview's route on the real server.

It gives the same tree as a run, and a clear message for everything that it cannot do.
"""

import json
import shutil
import urllib.error
import urllib.request

import pytest
from PIL import Image
from quadtree_pack import demo
from quadtree_pack.testing.demo import running_server
from quadtree_pack.testing.seen_through import LANCZOS, THROUGH

AUTOMATIC = {"content_threshold": 0, "min_tile_size": 0, "max_tile_size": 0}
VALUES = {
    "content_threshold": 25,
    "min_tile_size": 64,
    "max_tile_size": 1024,
    "min_denoise": 0.2,
    "max_denoise": 0.8,
}
ODD_FILES = ("bäume 木.png", "two  blanks/it's 100% {x} #1 & co.png", "💥 é\u0301.png")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("preview")
    photo = Image.open(demo.DEMO / "photo.png").convert("RGB").resize((900, 616))
    for name in ("a.jpg", "sub/b [1].png", *ODD_FILES):
        path = base / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(base / "input" / "turned.jpg", exif=turned)
    (base / "input" / "folder.png").mkdir()
    (base / "input" / "text.png").write_text("no image")
    (base / "secret.png").write_bytes((base / "input" / "a.jpg").read_bytes())
    (base / "input" / "link.png").symlink_to(base / "secret.png")
    (base / "output").mkdir()
    photo.save(base / "output" / "made.png")
    (base / "custom_nodes").mkdir()
    shutil.copy(demo.ROOT / "testing" / "stand_ins.py", base / "custom_nodes")
    return base


@pytest.fixture(scope="module")
def running(base):
    with running_server(base) as server:
        yield server


def load(image, through=()):
    """What the browser sends of a workflow: Load Image, then nodes, then the visualizer."""
    nodes = {"load": {"class_type": "LoadImage", "inputs": {"image": image}}}
    last = "load"
    for number, (kind, inputs) in enumerate(through):
        name = "input" if kind == "ResizeImageMaskNode" else "image"
        nodes[f"n{number}"] = {"class_type": kind, "inputs": {**inputs, name: [last, 0]}}
        last = f"n{number}"
    nodes["v"] = {"class_type": "QuadtreeVisualizer", "inputs": {"image": [last, 0]}}
    return {"node": "v", "workflow": nodes}


def ask(running, body, headers=None):
    """(status, answer) of a request; one that names an `image` gets a workflow that loads it."""
    if isinstance(body, dict) and "image" in body:
        body = {**load(body.pop("image"), body.pop("through", ())), **body}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(running.url + "/quadtree/preview", data, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else text


@pytest.mark.parametrize("name", ["a.jpg", "turned.jpg", *ODD_FILES])
@pytest.mark.parametrize("regions", ["", '[["keep", 0, 0, 0.5, 0.5], ["full", 0.5, 0.5, 1, 1]]'])
@pytest.mark.parametrize("rule", [{}, AUTOMATIC], ids=["threshold", "automatic"])
def test_the_tree_is_the_one_of_a_run(running, name, regions, rule):
    """Both read the px that Load Image decodes, with the same code: every leaf is equal."""
    values = {**VALUES, "regions": regions, **rule}
    status, of_file = ask(running, {"image": name, **values, "cost": True})
    assert (
        status == 200
        and of_file["count"] > 20
        and 0 < of_file["cost"] < 1
        and of_file["steps"] == 20
    )
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {
            "class_type": "QuadtreeVisualizer",
            "inputs": {"image": ["1", 0], **values, "line_thickness": 2},
        },
    }
    run = demo.run_prompt(running.url, prompt)
    key = run.outputs["2"]["quadtree_run"][0]["key"]
    status, of_run = ask(running, {"run": key, **values})
    assert status == 200
    same = ("width", "height", "count", "sides", "tiles", "denoise", "detail")
    assert {part: of_file[part] for part in same} == {part: of_run[part] for part in same}
    tall = name == "turned.jpg"
    assert (of_file["width"], of_file["height"]) == ((616, 900) if tall else (900, 616))
    area = sum(
        min(side, of_file["width"] - x) * min(side, of_file["height"] - y)
        for x, y, side in zip(*(of_file["tiles"][start::3] for start in range(3)), strict=True)
    )
    assert area == of_file["width"] * of_file["height"]


@pytest.mark.parametrize("name", ["sub/b [1].png", "sub/../a.jpg", *ODD_FILES, "made.png [output]"])
def test_files_in_comfyui_s_folders_are_found(running, name):
    assert ask(running, {"image": name, **VALUES})[0] == 200


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("../secret.png", 400),
        ("sub/../../secret.png", 400),
        ("../secret.png [output]", 400),
        ("link.png", 400),
        ("//host/share.png", 400),
        ("a\0.png", 400),
        (3, 400),
        (None, 400),
        (["a.jpg"], 400),
        ("missing.png", 404),
        ("folder.png", 404),
        ("..\\secret.png", 404),
        ("file:///etc/passwd", 404),
        ("x" * 5000, 400),
        ("text.png", 415),
    ],
)
def test_other_files_are_refused_in_words_without_a_path(running, base, name, status):
    code, answer = ask(running, {"image": name, **VALUES})
    assert (code, list(answer)) == (status, ["error"])
    assert (
        str(base) not in answer["error"]
        and "/etc" not in answer["error"]
        and len(answer["error"]) > 15
    )


def test_a_node_whose_file_is_not_chosen_is_no_error(running):
    status, answer = ask(running, {"image": "", **VALUES})
    assert (status, answer) == (200, {"unknown": "No file is chosen in the node that loads it."})


def test_an_absolute_path_is_refused(running, base):
    assert ask(running, {"image": str(base / "secret.png"), **VALUES})[0] == 400


@pytest.mark.parametrize(
    "changed",
    [
        {"content_threshold": float("nan")},
        {"content_threshold": float("inf")},
        {"content_threshold": True},
        {"content_threshold": "25"},
        {"content_threshold": -1},
        {"min_tile_size": 64.5},
        {"min_tile_size": 2048},
        {"min_tile_size": 4},
        {"coverage": 1.5},
        {"content_threshold": 0, "coverage": None},
        {"max_tile_size": 10**12},
        {"min_denoise": 0.9},
        {"max_denoise": 2},
        {"max_denoise": None},
        {"regions": "["},
        {"regions": 7},
        {"regions": '[["keep", 0, 0, 2, 2]]'},
    ],
)
def test_values_that_do_not_fit_are_refused_in_words(running, changed):
    code, answer = ask(running, {"image": "a.jpg", **VALUES, **changed})
    assert code in (400, 404) and len(answer["error"]) > 20


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"node": "1"}', b"", b"9" * 5000]
)
def test_what_is_no_request_is_refused(running, body):
    code, answer = ask(running, body)
    assert code == 400 and answer["error"]


def test_other_sites_are_refused_by_comfyui_and_large_requests_by_us(running):
    elsewhere = {"Origin": "https://example.com", "Sec-Fetch-Site": "cross-site"}
    assert ask(running, {"image": "a.jpg", **VALUES}, elsewhere)[0] == 403
    assert ask(running, {"image": "a.jpg", **VALUES, "regions": " " * (5 << 20)})[0] == 413


@pytest.mark.parametrize("key", ["nobody's", {}, 3, None])
def test_a_run_that_is_not_known_is_refused_in_words(running, key):
    code, answer = ask(running, {"run": key, **VALUES})
    assert code == 404 and "no longer kept" in answer["error"]


def test_what_is_sent_is_capped_not_what_is_built(running, base):
    Image.effect_noise((2048, 2048), 90).convert("RGB").save(base / "input" / "noise.png")
    answer = ask(
        running, {"image": "noise.png", **VALUES, "content_threshold": 1, "min_tile_size": 8}
    )[1]
    assert (
        answer["count"] == 65_536
        and len(answer["denoise"]) == 20_000
        and len(answer["tiles"]) == 60_000
    )


def test_a_changed_file_gives_a_new_tree_and_picture(running, base):
    first = ask(running, {"image": "a.jpg", **VALUES})[1]
    path = base / "input" / "a.jpg"
    old = path.read_bytes()
    Image.new("RGB", (512, 512), "gray").save(path)
    try:
        second = ask(running, {"image": "a.jpg", **VALUES})[1]
    finally:
        path.write_bytes(old)
    assert second["picture"] != first["picture"]
    assert second["width"] == 512 and second["count"] == 1


def test_a_second_copy_of_the_pack_does_not_stop_the_server(tmp_path, monkeypatch):
    monkeypatch.setitem(demo.PACKS, "a-second-copy", demo.ROOT)
    with running_server(tmp_path) as server:
        assert ask(server, {"image": "missing.png", **VALUES})[0] == 404


def test_numbers_beyond_all_bounds_are_refused_too(running):
    assert ask(running, {"image": "a.jpg", **VALUES, "content_threshold": 10**400})[0] == 400


def test_with_a_budget_the_answer_names_the_threshold_whose_tree_it_is(running):
    values = {**VALUES, "min_denoise": 0.0, "max_tile_size": 256, "detail_metric": "both"}
    status, answer = ask(running, {"image": "a.jpg", **values, "cost_budget": 0.4, "cost": True})
    assert status == 200 and answer["cost"] == pytest.approx(0.4, abs=0.1)
    plain = ask(
        running,
        {
            "image": "a.jpg",
            **values,
            "content_threshold": float(answer["found"].split()[1]),
            "cost": True,
        },
    )[1]
    assert plain.pop("found") is None and answer.pop("found")
    assert plain == answer
    status, refused = ask(running, {"image": "a.jpg", **values, "cost_budget": 0.01})
    assert (
        status == 400
        and refused["error"]
        == "cost_budget is 0.01; it must be 0 (off) or a number from 0.05 to 1."
    )


@pytest.mark.parametrize(("kind", "inputs"), THROUGH)
def test_an_image_passes_through_nodes_as_in_a_run(running, kind, inputs):
    through = [("ImageInvert", {}), (kind, {**inputs, "control_after_generate": "fixed"})]
    status, live = ask(running, {"image": "a.jpg", "through": through, **VALUES})
    assert status == 200 and live["origin"] == "live", live
    name = "input" if kind == "ResizeImageMaskNode" else "image"
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.jpg"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": kind, "inputs": {name: ["2", 0], **inputs}},
        "4": {
            "class_type": "QuadtreeVisualizer",
            "inputs": {"image": ["3", 0], **VALUES, "line_thickness": 2},
        },
    }
    run = demo.run_prompt(running.url, prompt)
    _, of_run = ask(running, {"run": run.outputs["4"]["quadtree_run"][0]["key"], **VALUES})
    same = ("width", "height", "count", "sides", "tiles", "denoise", "detail")
    assert {part: live[part] for part in same} == {part: of_run[part] for part in same}
    assert live["picture"]["type"] == "temp" and live["picture"] != of_run["picture"]


def price_of(running, kind, inputs):
    """What the panel tells of a run that samples an image behind a node of this kind."""
    body = load("a.jpg", [(kind, inputs)])
    body["workflow"]["v"]["inputs"]["image"] = ["load", 0]
    links = {
        "vae": ("VAELoader", {"vae_name": "vae.safetensors"}),
        "latent": ("VAEEncode", {"pixels": ["n0", 0], "vae": ["vae", 0]}),
        "model": ("UNETLoader", {"unet_name": "model.safetensors"}),
        "tree": ("QuadtreeDiffusion", {"model": ["model", 0], "quadtree": ["v", 1]}),
        "sampler": (
            "KSampler",
            {"model": ["tree", 0], "latent_image": ["latent", 0], "steps": 20, "cfg": 1.0},
        ),
    }
    body["workflow"] |= {
        name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in links.items()
    }
    return ask(running, {**body, **VALUES, "cost": True})[1]


@pytest.mark.parametrize(("kind", "inputs"), THROUGH)
def test_the_price_counts_the_size_that_a_node_will_make(running, kind, inputs):
    made = ask(running, {"image": "a.jpg", "through": [(kind, inputs)], **VALUES})[1]
    scale = {"width": made["width"], "height": made["height"], "crop": "disabled", **LANCZOS}
    price, same = price_of(running, kind, inputs), price_of(running, "ImageScale", scale)
    assert price["cells"] == same["cells"] and price["assumed"] == same["assumed"]


def test_of_a_size_that_only_a_run_computes_the_price_says_so(running):
    sides = {"width": ["load", 3], "height": 512, "crop": "disabled", **LANCZOS}
    known = {**sides, "width": 512}
    guessed = set(price_of(running, "ImageScale", sides)["assumed"])
    assert guessed - set(price_of(running, "ImageScale", known)["assumed"]) == {"size"}


LARGE = {"upscale_method": "lanczos", "width": 16384, "height": 16384, "crop": "disabled"}


@pytest.mark.parametrize(
    ("kind", "inputs", "words"),
    [
        ("VAEDecode", {}, "VAEDecode is computed during the run"),
        ("SaveImage", {}, "SaveImage is computed during the run"),
        ("ImageScaleBy", {}, "ImageScaleBy cannot be applied"),
        ("ImageScale", LARGE, "16384 x 16384 px, too large for the preview"),
    ],
)
def test_nodes_that_a_preview_cannot_apply_are_named(running, kind, inputs, words):
    status, answer = ask(running, {"image": "a.jpg", "through": [(kind, inputs)], **VALUES})
    assert status == 200 and words in answer["unknown"]


def switch(kind, **inputs):
    """Two files, a switch between them, and the visualizer."""
    nodes = load("a.jpg")["workflow"]
    nodes["other"] = {"class_type": "LoadImage", "inputs": {"image": "turned.jpg"}}
    nodes["switch"] = {"class_type": kind, "inputs": inputs}
    nodes["v"]["inputs"]["image"] = ["switch", 0]
    return {"node": "v", "workflow": nodes}


A, OTHER = ["load", 0], ["other", 0]


@pytest.mark.parametrize(
    ("kind", "inputs", "chosen"),
    [
        ("ComfySwitchNode", {"switch": True, "on_false": A, "on_true": OTHER}, "turned.jpg"),
        ("ComfySwitchNode", {"switch": False, "on_false": A, "on_true": OTHER}, "a.jpg"),
        ("Any Switch (rgthree)", {"any_01": OTHER, "any_02": A}, "turned.jpg"),
        ("Any Switch (rgthree)", {"any_02": A}, "a.jpg"),
        ("ImpactSwitch", {"select": 2, "input1": A, "input2": OTHER}, "turned.jpg"),
        ("LazySwitchKJ", {"switch": False, "on_false": A, "on_true": OTHER}, "a.jpg"),
    ],
)
def test_of_a_switch_the_chosen_image_is_shown(running, kind, inputs, chosen):
    answer = ask(running, {**switch(kind, **inputs), **VALUES})[1]
    expected = ask(running, {"image": chosen, **VALUES})[1]
    assert answer["tiles"] == expected["tiles"] and answer["origin"] == "live"


def test_of_a_switch_that_a_run_decides_nothing_is_shown(running):
    body = switch("ComfySwitchNode", switch=["load", 3], on_false=A, on_true=OTHER)
    assert "computed during the run" in ask(running, {**body, **VALUES})[1]["unknown"]


def run_of(running, body, **values):
    """Queue the workflow of a request; return the key of the visualizer's run."""
    prompt = json.loads(json.dumps(body["workflow"]))
    prompt["v"]["inputs"] |= {**VALUES, "line_thickness": 0, **values}
    run = demo.run_prompt(running.url, prompt)
    return run.outputs["v"]["quadtree_run"][0]["key"]


NOISY = ("ImageAddNoise", {"seed": 7, "strength": 0.2})


def test_the_last_run_is_shown_until_something_before_the_node_changes(running):
    body = load("a.jpg", [NOISY])
    key = run_of(running, body)
    noisy = body["workflow"]["n0"]["inputs"]
    answer = ask(running, {**body, **VALUES})[1]
    assert answer["origin"] == "run", "also without its key, as after a reload"
    noisy |= {"seed": 8, "upload": "image"}
    assert ask(running, {**body, **VALUES})[1]["origin"] == "reseeded", "buttons do not count"
    noisy["strength"] = 0.3
    assert "unknown" in ask(running, {**body, **VALUES})[1]
    stale = ask(running, {**body, **VALUES, "run": key})[1]
    assert stale["origin"] == "stale" and stale["tiles"] == answer["tiles"]
    shown = ask(running, {**body, **VALUES, "run": key, "shown": "made.png [output]"})[1]
    plain = ask(running, {"image": "made.png [output]", **VALUES})[1]
    assert shown["origin"] == "shown" and shown["tiles"] == plain["tiles"]
    noisy["strength"] = 0.4
    old = ask(running, {**body, **VALUES, "shown": "made.png [output]"})[1]
    assert old["origin"] == "stale" and old["tiles"] == plain["tiles"]


def test_a_run_is_kept_while_images_that_can_be_made_again_come_and_go(running):
    """ComfyUI would not run the node again, whose result it has."""
    body = load("a.jpg", [("ImageAddNoise", {"seed": 9, "strength": 0.2})])
    run_of(running, body)
    for width in range(100, 120):
        resized = {"width": width, "height": 100, "upscale_method": "area", "crop": "disabled"}
        ask(running, {**load("a.jpg", [("ImageScale", resized)]), **VALUES})
    assert ask(running, {**body, **VALUES})[1]["origin"] == "run"


def test_of_a_batch_of_images_the_answer_tells_how_many_there_are(running):
    body = load("a.jpg", [("RepeatImageBatch", {"amount": 2}), NOISY])
    run_of(running, body)
    assert ask(running, {**body, **VALUES})[1]["images"] == 2


def test_what_a_node_shows_is_old_once_something_changes_also_while_the_run_was_shown(running):
    body = load("a.jpg", [("ImageAddNoise", {"seed": 7, "strength": 0.6})])
    key = run_of(running, body)
    sent = {**body, **VALUES, "run": key, "shown": "sub/turned.jpg"}
    assert ask(running, sent)[1]["origin"] == "run"
    body["workflow"]["n0"]["inputs"]["strength"] = 0.7
    assert ask(running, sent)[1]["origin"] == "stale"


def test_a_number_from_a_node_of_its_own_is_the_browser_s_value(running):
    """ComfyUI runs nodes such as Float; the browser sends the value that they hold."""
    body = load("a.jpg", [("ImageAddNoise", {"seed": 7, "strength": 0.8})])
    queued = json.loads(json.dumps(body))
    queued["workflow"]["n0"]["inputs"]["strength"] = ["float", 0]
    queued["workflow"]["float"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 0.8}}
    run_of(running, queued)
    assert ask(running, {**body, **VALUES})[1]["origin"] == "run"


def with_mask(body, *chain):
    """Connect the mask of Load Image, through these nodes."""
    last = ["load", 1]
    for number, (kind, inputs) in enumerate(chain):
        body["workflow"][f"m{number}"] = {"class_type": kind, "inputs": {**inputs, "mask": last}}
        last = [f"m{number}", 0]
    body["workflow"]["v"]["inputs"]["mask"] = last
    return body


@pytest.fixture(scope="module")
def half_clear(base):
    """A file whose left half is transparent: its mask is 1 there."""
    photo = Image.open(base / "input" / "a.jpg").convert("RGBA")
    alpha = Image.new("L", photo.size, 255)
    alpha.paste(0, (0, 0, photo.width // 2, photo.height))
    photo.putalpha(alpha)
    photo.save(base / "input" / "half.png")
    return "half.png"


GROWN = {"expand": 0, "tapered_corners": True}


@pytest.mark.parametrize("mode", ["multiply", "at least", "replace"])
@pytest.mark.parametrize(
    "chain", [(), (("InvertMask", {}), ("GrowMask", {"expand": 0, "tapered_corners": True}))]
)
def test_a_mask_counts_in_the_tree_and_in_the_price_as_in_a_run(running, half_clear, mode, chain):
    body = with_mask(load(half_clear), *chain)
    values = {**VALUES, "mask_mode": mode, "cost": True}
    answer = ask(running, {**body, **values})[1]
    plain = ask(running, {**load(half_clear), **values})[1]
    assert answer["mask"]["type"] == "temp" and plain["mask"] is None
    assert answer["cost"] != plain["cost"] and answer["denoise"] != plain["denoise"]
    assert answer["tiles"] == plain["tiles"]
    prompt = json.loads(json.dumps(body["workflow"]))
    prompt["v"]["inputs"] |= {**VALUES, "line_thickness": 0, "mask_mode": mode}
    prompt["info"] = {"class_type": "QuadtreeInfo", "inputs": {"quadtree": ["v", 1], "steps": 20}}
    prompt["cost"] = {"class_type": "PreviewAny", "inputs": {"source": ["info", 4]}}
    run = demo.run_prompt(running.url, prompt)
    assert answer["cost"] == pytest.approx(float(run.outputs["cost"]["text"][0]), abs=1e-6)


def test_a_mask_that_takes_long_to_grow_is_left_out(running, half_clear):
    for expand, known in ((50, True), (16_384, False), (-16_384, False)):
        grow = ("GrowMask", {"expand": expand, "tapered_corners": True})
        answer = ask(running, {**with_mask(load(half_clear), grow), **VALUES})[1]
        assert (answer["mask"] is not None) == known and answer["origin"] == "live"


def test_a_workflow_that_breaks_the_preview_is_said_and_the_server_goes_on(running):
    ring = {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["ring", 0]}}
    body = load("a.jpg")
    body["workflow"] |= {
        "ring": ring,
        "tree": {
            "class_type": "QuadtreeDiffusion",
            "inputs": {"model": ["m", 0], "quadtree": ["v", 1]},
        },
        "sampler": {
            "class_type": "KSampler",
            "inputs": {"model": ["tree", 0], "latent_image": ["ring", 0], "steps": 4},
        },
    }
    status, answer = ask(running, {**body, **VALUES, "cost": True})
    assert (status, answer) == (500, {"error": "The preview failed; the log of ComfyUI says why."})
    assert ask(running, {**body, **VALUES})[0] == 200


def test_a_mask_that_only_a_run_computes_is_left_out(running, half_clear):
    body = with_mask(load(half_clear), ("SomeSegmentation", {}))
    answer = ask(running, {**body, **VALUES})[1]
    assert answer["mask"] is None and answer["origin"] == "live"
