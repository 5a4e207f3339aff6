"""The steps that the panel's scrubber shows are those of the run's plan, on the real server."""

import json
import urllib.request

import pytest
from quadtree_pack import demo

STEPS = 6
TREE = {
    "content_threshold": 60.0,
    "min_tile_size": 64,
    "max_tile_size": 256,
    "min_denoise": 0.0,
    "max_denoise": 1.0,
}


def ask(running, workflow, **changes):
    node = demo.find_node(workflow, "QuadtreeVisualizer")
    body = {**TREE, "node": node, "workflow": workflow, "cost": True, "steps": True, **changes}
    request = urllib.request.Request(running.url + "/quadtree/preview", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


@pytest.fixture
def workflow(running):
    """Load Image -> Quadtree Visualizer -> Quadtree Diffusion -> a sampler of STEPS steps."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "QuadtreeVisualizer", "inputs": {"image": ["1", 0]}},
        "3": {
            "class_type": "QuadtreeDiffusion",
            "inputs": {"model": ["9", 0], "quadtree": ["2", 1]},
        },
        "4": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["9", 2]}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["3", 0],
                "latent_image": ["4", 0],
                "steps": STEPS,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                "cfg": 1.0,
            },
        },
        "9": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "any.safetensors"}},
    }


def test_the_shares_of_the_steps_make_the_price(running, workflow):
    answer = ask(running, workflow)
    plan = answer["plan"]
    assert answer["steps"] == len(plan["windows"]) == len(plan["shares"]) == STEPS
    assert sum(plan["shares"]) / 1000 / STEPS == pytest.approx(answer["cost"], abs=1e-3)
    assert plan["sampler"] == "5"


def test_windows_cover_every_tile_that_a_step_does_not_hold(running, workflow):
    answer = ask(running, workflow)
    plan, tiles = answer["plan"], answer["tiles"]
    denoise = [value / 1000 for value in answer["denoise"]]
    assert len(plan["held"]) == len(denoise)
    assert {held for held, value in zip(plan["held"], denoise, strict=True) if value == 0} <= {
        STEPS
    }
    for step in range(STEPS):
        boxes = list(zip(*[iter(plan["windows"][step])] * 4, strict=True))
        for number, held in enumerate(plan["held"]):
            x, y, side = tiles[3 * number : 3 * number + 3]
            x, y = x + side // 2, y + side // 2
            if held <= step and x < answer["width"] and y < answer["height"]:
                assert any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes)


def test_a_step_that_holds_everything_costs_nothing(running, workflow):
    answer = ask(running, workflow, regions='[["value", 0, 0, 1, 1, 0.5]]')
    assert answer["plan"]["shares"][: STEPS // 2] == [0] * (STEPS // 2)
    assert all(share >= 1000 for share in answer["plan"]["shares"][STEPS // 2 :])
    assert set(answer["plan"]["held"]) == {STEPS // 2}


def test_without_a_sampler_the_steps_are_those_of_a_typical_run(running, workflow):
    plan = ask(running, {number: workflow[number] for number in "12"})["plan"]
    assert len(plan["windows"]) == 20 and plan["sampler"] is None
