"""The pack on the real server, over its API: nodes, help pages, and the demo's workflow from photo
to saved latents."""

import urllib.error

import pytest
import safetensors.torch
import torch
from quadtree_pack import demo
from quadtree_pack.testing.api import PACK, fetch, get, short_prompt


@pytest.mark.parametrize(
    "node",
    [
        "QuadtreeVisualizer",
        "QuadtreeDiffusion",
        "QuadtreeComposite",
        "QuadtreeInfo",
        "QuadtreeCluster",
    ],
)
def test_the_server_lists_the_node_and_serves_its_help_page(running, node):
    info = get(running, f"/object_info/{node}")[node]
    assert info["python_module"].endswith(PACK)
    page = fetch(running, f"/extensions/{PACK}/docs/{node}.md").decode()
    for group in ("required", "optional"):
        for name in info["input"].get(group, {}):
            assert f"| {name}" in page, f"the help page says nothing of {name}"


def test_the_demo_s_workflow_runs_and_keeps_the_calm_regions(running, base):
    prompt = short_prompt(running)
    run = demo.run_prompt(running.url, prompt)
    files = demo.find_files(run, prompt, base)
    before, after = (
        safetensors.torch.load_file(files[f"latent {name}"])["latent_tensor"]
        for name in ("before", "after")
    )
    changed = (before != after).any(1)
    assert 0.2 < changed.float().mean() < 0.9
    log = running.log.read_text()
    assert "Quadtree: " in log and "of the full model cost" in log
    assert demo.read_report(log).cost_percent > 0


def test_a_value_out_of_range_is_refused_before_the_run(running):
    with pytest.raises(demo.DemoError, match="min_denoise"):
        demo.run_prompt(running.url, short_prompt(running, min_denoise=7.0))


def test_a_contradiction_ends_the_run_with_words_that_help(running):
    with pytest.raises(demo.DemoError, match=r"min_denoise is 0\.9 and max_denoise 0\.1"):
        demo.run_prompt(running.url, short_prompt(running, min_denoise=0.9, max_denoise=0.1))


def test_the_server_goes_on_after_an_error(running, base):
    prompt = short_prompt(running, max_denoise=0.0, min_denoise=0.0)
    run = demo.run_prompt(running.url, prompt)
    files = demo.find_files(run, prompt, base)
    before, after = (
        safetensors.torch.load_file(files[f"latent {name}"])["latent_tensor"]
        for name in ("before", "after")
    )
    assert torch.equal(before, after)


def test_an_unknown_page_is_no_help_page(running):
    with pytest.raises(urllib.error.HTTPError):
        fetch(running, f"/extensions/{PACK}/docs/Nothing.md")
