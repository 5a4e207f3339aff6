"""The server takes and runs workflows that earlier versions of the pack saved.

They are in tests/workflows, which says what saved them.
"""

import json

import pytest
from quadtree_pack import demo
from quadtree_pack.testing.api import get, with_tiny_model

SAVED = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in demo.ROOT.glob("tests/workflows/*.json")
}


def runnable(prompt):
    """With a small model and two steps; nothing of our nodes is changed."""
    if not any(node["class_type"] == "TinyRefinerLoader" for node in prompt.values()):
        return with_tiny_model(prompt)
    prompt[demo.find_node(prompt, "KSampler")]["inputs"]["steps"] = 2
    return prompt


def ours(prompt):
    return {
        number: node for number, node in prompt.items() if node["class_type"].startswith("Quadtree")
    }


@pytest.mark.parametrize("name", [name for name in SAVED if name.endswith(".api")])
def test_a_prompt_of_an_earlier_version_runs(name, running):
    prompt = runnable(json.loads(json.dumps(SAVED[name])))
    assert ours(prompt) == ours(SAVED[name])
    assert demo.run_prompt(running.url, prompt).outputs


@pytest.mark.parametrize("name", [name for name in SAVED if not name.endswith(".api")])
def test_a_workflow_of_an_earlier_version_runs(name, running):
    prompt = runnable(demo.prompt_from_workflow(SAVED[name], get(running, "/object_info")))
    for number, node in ours(prompt).items():
        (saved,) = (one for one in SAVED[name]["nodes"] if str(one["id"]) == number)
        assert [value for value in node["inputs"].values() if not isinstance(value, list)] == saved[
            "widgets_values"
        ]
    assert len(ours(prompt)) >= 2
    assert demo.run_prompt(running.url, prompt).outputs
