"""The live preview's route on the real server.

It gives the same tree as a run, and a clear message for everything that it cannot do.
"""

import json
import urllib.error
import urllib.request

import pytest
from PIL import Image
from quadtree_pack import demo
from quadtree_pack.testing.demo import running_server

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
    return base


@pytest.fixture(scope="module")
def running(base):
    with running_server(base) as server:
        yield server


def ask(running, body, headers=None):
    """(status, answer) of a request."""
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
        ("", 400),
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
        {"run": "nobody's"},
        {"run": {}},
    ],
)
def test_values_that_do_not_fit_are_refused_in_words(running, changed):
    code, answer = ask(running, {"image": "a.jpg", **VALUES, **changed})
    assert code in (400, 404) and len(answer["error"]) > 20


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"image": "a.jpg"}', b""]
)
def test_what_is_no_request_is_refused(running, body):
    code, answer = ask(running, body)
    assert code == 400 and answer["error"]


def test_other_sites_are_refused_by_comfyui_and_large_requests_by_us(running):
    elsewhere = {"Origin": "https://example.com", "Sec-Fetch-Site": "cross-site"}
    assert ask(running, {"image": "a.jpg", **VALUES}, elsewhere)[0] == 403
    assert ask(running, {"image": "a.jpg", **VALUES, "regions": " " * (5 << 20)})[0] == 413


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


def test_a_changed_file_gives_a_new_tree_and_token(running, base):
    first = ask(running, {"image": "a.jpg", **VALUES})[1]
    path = base / "input" / "a.jpg"
    old = path.read_bytes()
    Image.new("RGB", (512, 512), "gray").save(path)
    try:
        second = ask(running, {"image": "a.jpg", **VALUES})[1]
    finally:
        path.write_bytes(old)
    assert second["token"] != first["token"] and second["width"] == 512 and second["count"] == 1


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


THROUGH = [
    ("ImageScaleBy", {"upscale_method": "lanczos", "scale_by": 1.5}),
    ("ImageScale", {"upscale_method": "bicubic", "width": 512, "height": 0, "crop": "disabled"}),
    ("ImageScale", {"upscale_method": "area", "width": 320, "height": 320, "crop": "center"}),
    (
        "ResizeImageMaskNode",
        {
            "resize_type": "scale by multiplier",
            "resize_type.multiplier": 0.7,
            "scale_method": "area",
        },
    ),
    ("ImageSharpen", {"sharpen_radius": 1, "sigma": 1.0, "alpha": 1.0}),
    ("ImageCrop", {"width": 300, "height": 200, "x": 20, "y": 30}),
    ("ImageRotate", {"rotation": "90 degrees"}),
]


@pytest.mark.parametrize(("kind", "inputs"), THROUGH)
def test_an_image_passes_through_nodes_as_in_a_run(running, kind, inputs):
    through = [
        {"node": "ImageInvert", "inputs": {}},
        {"node": kind, "inputs": {**inputs, "control_after_generate": "fixed"}},
    ]
    status, live = ask(running, {"image": "a.jpg", "through": through, **VALUES})
    assert status == 200, live
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
    assert live["picture"]["type"] == "temp" and live["token"] != of_run["token"]


@pytest.mark.parametrize(
    ("through", "words"),
    [
        ([{"node": "VAEDecode", "inputs": {}}], "VAEDecode is computed during the run"),
        ([{"node": "SaveImage", "inputs": {}}], "SaveImage is computed during the run"),
        ([{"node": "ImageScaleBy", "inputs": {}}], "ImageScaleBy cannot be applied"),
        (
            [
                {
                    "node": "ImageScale",
                    "inputs": {
                        "upscale_method": "lanczos",
                        "width": 16384,
                        "height": 16384,
                        "crop": "disabled",
                    },
                }
            ],
            "16384 x 16384 px, too large for the preview",
        ),
        ([{"node": 3, "inputs": {}}], "Each entry of through"),
        (["ImageInvert"], "Each entry of through"),
        ("ImageInvert", "through must be a list"),
        ([{"node": "ImageInvert", "inputs": {}}] * 17, "at most 16 nodes"),
    ],
)
def test_nodes_that_a_preview_cannot_apply_are_named(running, through, words):
    status, answer = ask(running, {"image": "a.jpg", "through": through, **VALUES})
    assert status == 400 and words in answer["error"]
