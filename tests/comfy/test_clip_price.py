"""The panel's price of a clip, and the windows that it shows, are those of the run."""

import folder_paths
import pytest
import torch
from quadtree_pack.nodes import QuadtreeDiffusion, QuadtreeInfo, QuadtreeVisualizer
from quadtree_pack.sampling.model import Geometry
from quadtree_pack.testing.clips import object_clip, soft_wall
from quadtree_pack.testing.support import Spy
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.ui.model_files import MODELS
from quadtree_pack.ui.preview import answer_request

HEIGHT, WIDTH, FRAMES, STEPS = 256, 1280, 33, 6
TREE = {"content_threshold": 0.0, "min_tile_size": 32, "max_tile_size": 0}
TREE |= {"min_denoise": 0.2, "max_denoise": 0.8}
WINDOWS = {"method": "Shifted Feather", "tile_size": 256, "tile_overlap": 32}
WINDOWS |= {"tile_batch_size": 4, "schedule": "hold", "feather": 32, "skip_diffusion_below": 0}
LOADER = "SomeVideoLoader"


def workflow():
    """Quadtree Visualizer -> Quadtree Diffusion -> KSampler."""
    run = {"model": ["diffusion", 0], "latent_image": ["latent", 0], "steps": STEPS, "cfg": 1.0}
    run |= {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["loader", 0], "quadtree": ["visualizer", 1]}
    return {
        "visualizer": {"class_type": "QuadtreeVisualizer", "inputs": {}},
        "loader": {"class_type": LOADER, "inputs": {}},
        "diffusion": {"class_type": "QuadtreeDiffusion", "inputs": {**links, **WINDOWS}},
        "latent": {"class_type": "LatentOfSomePack", "inputs": {}},
        "sampler": {"class_type": "KSampler", "inputs": run},
    }


@pytest.mark.parametrize("batch", ["clip", "clip maximum", "clip per frame"])
def test_the_panel_s_price_of_a_clip_is_that_of_the_run(batch, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    entry = entry_of("wan21_t2v")
    geometry = Geometry.of(entry.model)
    MODELS.remember(LOADER, geometry)
    clip = object_clip(soft_wall(HEIGHT, WIDTH), FRAMES, side=64, start=(96, 32), step=(0, 32))
    output = QuadtreeVisualizer.execute(clip, **TREE, line_thickness=0, batch=batch)
    body = {"run": output.ui["quadtree_run"][0]["key"], "batch": batch, "cost": True, "steps": True}
    asked = {**TREE, **body, "node": "visualizer", "workflow": workflow()}
    answer = answer_request(asked)

    trees, cells = output.args[1], (HEIGHT // 8, WIDTH // 8)
    spy = Spy(QuadtreeDiffusion.execute(entry.model, trees, **WINDOWS).args[0])
    latent = torch.rand(1, 16, geometry.count_frames(FRAMES), *cells)
    sample(entry, latent, model=spy.model, steps=STEPS)
    evaluated = spy.cells / (STEPS * cells[0] * cells[1])
    assert 0 < evaluated < 1
    assert answer["cost"] == pytest.approx(evaluated, abs=1e-6)
    assert sum(answer["plan"]["shares"]) / 1000 / STEPS == pytest.approx(evaluated, abs=1e-3)
    assert answer["cells"] == pytest.approx(evaluated * STEPS * latent[0, 0].numel())
    assert f"{FRAMES} frames" in QuadtreeInfo.execute(trees, STEPS).args[0]
