"""A model's geometry is told by its file's header as by the loaded model, for real families."""

import json

import comfy.supported_models as supported
import pytest
import torch
from quadtree_pack.benchmarks.gpu_models import FLUX_DEV, SDXL_BASE
from quadtree_pack.sampling.model import TRANSFORMER_COST, UNET_COST
from quadtree_pack.ui.model_files import find_geometry, read_geometry
from quadtree_pack.ui.workflow import Workflow

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_head_channels": 64,
    "dtype": torch.float16,
}
FAMILIES = {
    "SDXL": (
        supported.SDXL,
        {**UNET, **SDXL_BASE},
        {"native_px": 1024, "unit": 4, "px_per_cell": 8, "cost": UNET_COST},
    ),
    "SD1.5": (
        supported.SD15,
        {
            **UNET,
            "num_head_channels": -1,
            "num_heads": 8,
            "model_channels": 320,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
            "use_linear_in_transformer": False,
            "context_dim": 768,
            "adm_in_channels": None,
        },
        {"native_px": 512, "unit": 8, "px_per_cell": 8, "cost": UNET_COST},
    ),
    "Flux": (
        supported.Flux,
        {
            **FLUX_DEV,
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "patch_size": 2,
            "theta": 10000,
            "qkv_bias": True,
            "guidance_embed": True,
            "txt_ids_dims": [],
            "dtype": torch.bfloat16,
        },
        {"native_px": 1024, "unit": 2, "px_per_cell": 8, "cost": TRANSFORMER_COST},
    ),
}
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}


def write_header(path, weights):
    """Write a safetensors file that has a header and no weights."""
    entries = {
        name: {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [0, 0]}
        for name, value in weights.items()
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def weights_of(family, config):
    """The names and shapes of the full-size network, on the meta device."""
    model = family(dict(config)).get_model({}, "", device=torch.device("meta"))
    return model.diffusion_model.state_dict()


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_header_of_a_file_tells_the_geometry(name, prefix, tmp_path):
    family, config, expected = FAMILIES[name]
    weights = weights_of(family, config)
    path = tmp_path / "model.safetensors"
    write_header(path, {prefix + key: value for key, value in weights.items()})
    found = read_geometry(str(path), 0)
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize("content", [b"", b"no model", (1 << 40).to_bytes(8, "little")])
def test_a_file_that_holds_no_model_is_unknown(content, tmp_path):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    assert read_geometry(str(path), 0) is None
    write_header(path, {"a.weight": torch.empty(3, 3)})
    assert read_geometry(str(path), 1) is None


def test_a_loader_s_file_is_looked_for_in_comfyui_s_folders_only(tmp_path, monkeypatch):
    import folder_paths

    family, config, _ = FAMILIES["Flux"]
    inside = tmp_path / "models"
    inside.mkdir()
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "diffusion_models", ([str(inside)], {".safetensors"})
    )
    for path in (inside / "flux.safetensors", tmp_path / "other.safetensors"):
        write_header(path, weights_of(family, config))

    def ask(name):
        sent = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": name}}}
        return find_geometry(Workflow(sent).nodes["1"])

    assert ask("flux.safetensors").unit == 2
    for name in ("../other.safetensors", str(tmp_path / "other.safetensors"), "none.safetensors"):
        assert ask(name) is None
