"""Nodes that load the tiny models, for the workers of tests: `testing/cluster.py` gives them to
their ComfyUI as a node pack."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch

from .tiny_controls import flux_controlnet, sd15_controlnet
from .tiny_models import ZOO
from .trouble import note_freed, note_key, with_trouble

CONTROLS = {"sd15": sd15_controlnet, "flux": lambda: flux_controlnet(latent_input=True)}


def in_bf16(model: Any) -> Any:
    """Return a model, changed: it computes in half precision, as most large ones do."""
    network = model.model.diffusion_model
    network.to(torch.bfloat16)
    network.dtype = torch.bfloat16
    if hasattr(network, "patch_embedding"):  # Wan's, which ComfyUI keeps in full precision
        network.patch_embedding.float()
    return model


class TinyModel:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - as ComfyUI names it
        return {
            "required": {"family": ("STRING", {"default": "flux"})},
            "optional": {"halved": ("BOOLEAN", {"default": False})},
        }

    def load(self, family: str, halved: bool = False) -> tuple:
        model = ZOO[family]().model
        return (in_bf16(model) if halved else model,)


class TinyCheckpoint:
    """Loads a tiny model with the weights of a file, as loaders of checkpoints do."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        names = folder_paths.get_filename_list("checkpoints")
        return {"required": {"ckpt_name": (names,), "family": ("STRING", {"default": "flux"})}}

    def load(self, ckpt_name: str, family: str) -> tuple:
        model = ZOO[family]().model
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        model.model.diffusion_model.load_state_dict(comfy.utils.load_torch_file(path))
        return (model,)


class TinyControl:
    RETURN_TYPES = ("CONTROL_NET",)
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"kind": (list(CONTROLS),)}}

    def load(self, kind: str) -> tuple:
        return (CONTROLS[kind](),)


class TinyTrouble:
    """Patches a model so that calls fail where a file says so."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {"model": ("MODEL",), "folder": ("STRING", {"default": ""})},
            "hidden": {"key": "API_KEY_COMFY_ORG"},
        }

    def patch(self, model: Any, folder: str, key: str | None = None) -> tuple:
        note_key(Path(folder), key)
        weakref.finalize(model.model, note_freed, Path(folder)).atexit = False
        return (with_trouble(model, folder),)


NODE_CLASS_MAPPINGS = {
    "TinyModel": TinyModel,
    "TinyCheckpoint": TinyCheckpoint,
    "TinyControl": TinyControl,
    "TinyTrouble": TinyTrouble,
}
