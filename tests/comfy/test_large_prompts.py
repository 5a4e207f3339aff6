"""A run's own prompt may be of any size; only what a browser sends is limited."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from quadtree_pack.quadtree import BlockSums
from quadtree_pack.sampling.model import Geometry
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.ui.preview import keep_for_preview
from quadtree_pack.ui.price import remember_model
from quadtree_pack.ui.workflow import MOST_NODES, Workflow


def large_prompt():
    prompt = {str(n): {"class_type": "Note", "inputs": {}} for n in range(MOST_NODES + 88)}
    prompt["1"] = {"class_type": "QuadtreeVisualizer", "inputs": {"image": ["0", 0]}}
    prompt["2"] = {"class_type": "QuadtreeDiffusion", "inputs": {"model": ["3", 0]}}
    return prompt


def test_a_run_of_a_large_prompt_is_kept_for_the_preview():
    image, prompt = torch.rand(1, 64, 64, 3), large_prompt()
    hidden = SimpleNamespace(prompt=prompt, unique_id="1")
    assert keep_for_preview(image, BlockSums.of_image(image[0]), hidden)["quadtree_run"]
    hidden = SimpleNamespace(prompt=prompt, unique_id="2")
    assert remember_model(hidden, Geometry.of(entry_of("flux").model)) == "Note"


def test_no_run_fails_for_what_else_its_prompt_holds():
    image, prompt = (
        torch.rand(1, 64, 64, 3),
        {**large_prompt(), "9": {"class_type": "Note"}, "x": 1},
    )
    hidden = SimpleNamespace(prompt=prompt, unique_id="1")
    assert keep_for_preview(image, BlockSums.of_image(image[0]), hidden)["quadtree_run"]
    hidden = SimpleNamespace(prompt=prompt, unique_id="2")
    assert remember_model(hidden, Geometry.of(entry_of("flux").model)) == "Note"


def test_no_run_fails_where_the_panel_s_picture_cannot_be_saved(monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    image = torch.rand(1, 64, 64, 3)
    assert keep_for_preview(image, BlockSums.of_image(image[0])) == {}
    assert "the panel does not show this run: disk full" in caplog.text


def test_a_large_workflow_of_a_browser_is_refused_in_words():
    with pytest.raises(ValueError, match=f"at most {MOST_NODES} nodes"):
        Workflow.of_request(large_prompt())


@pytest.mark.parametrize("slot", [-1, True, 0.5])
def test_what_is_no_slot_is_no_link(slot):
    node = {"class_type": "QuadtreeVisualizer", "inputs": {"image": ["0", slot]}}
    assert Workflow({"1": node}).nodes["1"].link("image") is None
