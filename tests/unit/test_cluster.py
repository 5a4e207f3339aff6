"""What is cut from a prompt for a worker, and what a packed value is on the other side."""

import os
import sys
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quadtree_pack.cluster.branch import SINK_ID, cut_branch, cut_control_branches
from quadtree_pack.cluster.joining import SEND_DIRECTLY, import_ray, is_named
from quadtree_pack.cluster.packing import UnsendableError, digest_of, pack, pack_array, unpack

PROMPT = {
    "1": {"class_type": "Loader", "inputs": {"name": "a.safetensors"}, "_meta": {"title": "x"}},
    "2": {"class_type": "Lora", "inputs": {"model": ["1", 0], "strength": 0.5}},
    "3": {"class_type": "Tree", "inputs": {"image": ["9", 0]}},
    "4": {"class_type": "QuadtreeDiffusion", "inputs": {"model": ["2", 0], "quadtree": ["3", 1]}},
    "5": {"class_type": "Patch", "inputs": {"model": ["4", 0], "size": [64, 64]}},
    "6": {"class_type": "QuadtreeCluster", "inputs": {"model": ["5", 0], "workers": 0}},
    "7": {"class_type": "Sampler", "inputs": {"model": ["6", 0], "key": "secret"}},
    "8": {"class_type": "ControlLoader", "inputs": {"name": "c.safetensors"}},
    "9": {"class_type": "Image", "inputs": {}},
}


def test_a_branch_is_what_makes_the_model_and_nothing_else():
    branch = cut_branch(PROMPT, "6")
    assert set(branch) == {"1", "2", "5", SINK_ID}
    assert branch["5"]["inputs"] == {"model": ["2", 0], "size": [64, 64]}
    assert branch[SINK_ID]["inputs"] == {"value": ["5", 0]}
    assert all(set(node) == {"class_type", "inputs"} for node in branch.values())


def test_this_pack_s_own_nodes_right_before_are_left_out():
    prompt = {**PROMPT, "6": {"class_type": "QuadtreeCluster", "inputs": {"model": ["4", 0]}}}
    branch = cut_branch(prompt, "6")
    assert set(branch) == {"1", "2", SINK_ID} and branch[SINK_ID]["inputs"]["value"] == ["2", 0]


def test_cutting_changes_nothing_of_the_prompt():
    before = repr(PROMPT)
    cut_branch(PROMPT, "6")
    assert repr(PROMPT) == before


@pytest.mark.parametrize("node_id", ["99", "9"])
def test_a_node_that_is_not_in_the_prompt_is_refused_in_words(node_id):
    with pytest.raises(ValueError, match="does not find itself in the prompt"):
        cut_branch(PROMPT, node_id)


def test_each_controlnet_that_is_loaded_has_a_branch():
    outputs = {"ControlLoader": ("IMAGE", "CONTROL_NET")}
    (branch,) = cut_control_branches(PROMPT, lambda kind: outputs.get(kind, ()))
    assert set(branch) == {"8", SINK_ID} and branch[SINK_ID]["inputs"]["value"] == ["8", 1]


DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
TENSORS = st.builds(
    lambda shape, dtype: torch.randn(shape).to(dtype),
    st.lists(st.integers(0, 4), max_size=4),
    DTYPES,
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), DTYPES, TENSORS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(value=VALUES)
def test_a_packed_value_comes_back(value):
    assert repr(unpack(pack(value))) == repr(value)


def test_a_tensor_comes_back_to_the_bit_from_whatever_memory():
    value = torch.randn(4, 6, 8)[..., ::2].transpose(0, 1)
    assert torch.equal(unpack(pack(value)), value)


def test_equal_tensors_have_one_digest_and_others_another():
    value = torch.randn(4, 6)
    same, other = pack_array(value.clone()), pack_array(value.T)
    assert digest_of(pack_array(value)) == digest_of(same) != digest_of(other)


@pytest.mark.parametrize("value", [object(), {"f": print}, [torch.nn.Linear(1, 1)], {1}])
def test_what_is_more_than_data_is_not_sent(value):
    with pytest.raises(UnsendableError, match="conditioning of type"):
        pack(value)


def test_ray_is_asked_for_in_words_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="pip install ray"):
        import_ray()


def test_ray_is_told_to_send_windows_directly_unless_someone_says_otherwise(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    (name,) = SEND_DIRECTLY
    for said, expected in ((None, SEND_DIRECTLY[name]), ("1000", "1000")):
        monkeypatch.delenv(name, raising=False)
        if said is not None:
            monkeypatch.setenv(name, said)
        import_ray()
        assert os.environ[name] == expected


@pytest.mark.parametrize(
    ("address", "named"), [(None, False), ("", False), ("local", False), ("10.0.0.1:6379", True)]
)
def test_only_the_environment_names_a_cluster(monkeypatch, address, named):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert is_named() == named
