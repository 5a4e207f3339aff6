"""The server's queue: prompts in flight, cancelled, interrupted, run again by another process: each
gives its own result."""

import json
import urllib.parse

import pytest
import torch
from quadtree_pack import demo
from quadtree_pack.testing.demo import (
    finished,
    latent_of,
    post,
    prompt_for,
    queue,
    running_server,
)
from quadtree_pack.testing.hostile import ODD_NAMES

LONG = {"KSampler": {"steps": 40}}
OTHER = {
    "KSampler": {"seed": 7, "steps": 3},
    "QuadtreeVisualizer": {"max_denoise": 0.9, "regions": '[["keep", 0, 0, 0.5, 0.5]]'},
    "QuadtreeDiffusion": {"method": "MultiDiffusion"},
}


def fresh(running, base, prompt):
    """The result of a prompt that runs alone, with nothing left of earlier ones."""
    while True:
        post(running, "/free", {"unload_models": True, "free_memory": True})
        run = demo.run_prompt(running.url, prompt)
        if (
            demo.find_node(prompt, "KSampler") in run.seconds
        ):  # else it came from the cache, which the server empties when idle
            return latent_of(run.outputs, base)


def test_two_prompts_in_flight_give_what_each_gives_alone(running, base):
    prompts = [prompt_for(running, LONG), prompt_for(running, OTHER)]
    ids = [queue(running, prompt) for prompt in prompts]
    state = demo.get_json(f"{running.url}/queue")
    assert len(state["queue_running"]) + len(state["queue_pending"]) == 2
    found = [latent_of(finished(running, one)["outputs"], base) for one in ids]
    alone = [fresh(running, base, prompt) for prompt in prompts]
    assert (
        torch.equal(found[0], alone[0])
        and torch.equal(found[1], alone[1])
        and not torch.equal(*found)
    )


def test_a_prompt_deleted_from_the_queue_does_not_run_and_disturbs_no_other(running, base):
    prompts = [
        prompt_for(running, {"KSampler": {"steps": 40, "seed": 1}}),
        prompt_for(running),
        prompt_for(running, OTHER),
    ]
    first, deleted, last = (queue(running, prompt) for prompt in prompts)
    assert deleted in [entry[1] for entry in demo.get_json(f"{running.url}/queue")["queue_pending"]]
    post(running, "/queue", {"delete": [deleted]})
    assert finished(running, first)["status"]["status_str"] == "success"
    assert torch.equal(
        latent_of(finished(running, last)["outputs"], base), fresh(running, base, prompts[2])
    )
    assert demo.get_json(f"{running.url}/history/{deleted}") == {}


def test_after_an_interrupt_in_the_middle_the_same_prompt_gives_a_fresh_one_s_result(running, base):
    prompt = prompt_for(running, {"KSampler": {"steps": 100, "seed": 2}})
    seen = []

    def stop_at_the_first_step(text):
        if text.startswith("step "):
            seen.append(text) or post(running, "/interrupt", {})

    with pytest.raises(demo.DemoError, match="interrupted"):
        demo.run_prompt(running.url, prompt, stop_at_the_first_step)
    assert seen and "step 100 of 100" not in seen
    again = latent_of(demo.run_prompt(running.url, prompt).outputs, base)
    assert torch.equal(again, fresh(running, base, prompt))


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_characters_in_regions_are_refused_in_words_or_mean_nothing(running, name):
    """As the word of a region they are refused; under a key that nobody asks for they do no
    harm."""
    words = prompt_for(
        running, {"QuadtreeVisualizer": {"regions": json.dumps([[name, 0, 0, 1, 1]])}}
    )
    with pytest.raises(demo.DemoError, match=r"in regions is not a region.*keep, full or auto"):
        demo.run_prompt(running.url, words)
    regions = json.dumps(
        {"regions": [["keep", 0, 0, 1, 1]], "note": name}, ensure_ascii=name == "\ud800"
    )
    demo.run_prompt(running.url, prompt_for(running, {"QuadtreeVisualizer": {"regions": regions}}))


def test_a_workflow_saved_before_a_restart_gives_the_same_result_after_it(tmp_path):
    place = "/userdata/" + urllib.parse.quote("workflows/Bäume 木, it's 100%.json", safe="")
    workflow = json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    (visualizer,) = (node for node in workflow["nodes"] if node["type"] == "QuadtreeVisualizer")
    visualizer["widgets_values"][6] = '{"regions": [["keep", 0, 0, 0.5, 1]], "note": "木"}'
    results = []
    for start in (1, 2):
        with running_server(tmp_path) as server:
            if start == 1:
                post(server, place, workflow)
            saved = demo.get_json(server.url + place)
            results.append(
                latent_of(
                    demo.run_prompt(server.url, prompt_for(server, workflow=saved)).outputs,
                    tmp_path,
                )
            )
    assert saved == workflow and torch.equal(*results)
