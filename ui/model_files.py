"""Tells the geometry of a model before it is loaded.

By the header of its file, without reading a weight; or as it was in an earlier run.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import torch

from ..sampling.model import Geometry
from .workflow import Node

KEPT_MODELS = 64
LARGEST_HEADER = 64 << 20  # bytes
# The folder of the files that a loader's input names.
FOLDERS = {"ckpt_name": "checkpoints", "unet_name": "diffusion_models"}
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class ModelMemory:
    """The geometries of the last models that were sampled with, by the names of `name_model`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: OrderedDict[str, Geometry] = OrderedDict()
        self.lock = threading.Lock()

    def remember(self, name: str, geometry: Geometry) -> None:
        with self.lock:
            self.entries[name] = geometry
            self.entries.move_to_end(name)
            while len(self.entries) > self.size:
                self.entries.popitem(last=False)

    def recall(self, name: str) -> Geometry | None:
        with self.lock:
            return self.entries.get(name)


MODELS = ModelMemory(KEPT_MODELS)


def name_model(loader: Node) -> str:
    """Return a name for the model that a node loads: its class and what it was told."""
    values = [value for value in loader.inputs.values() if isinstance(value, str)]
    return " ".join([loader.kind, *values])


def find_geometry(loader: Node) -> Geometry | None:
    """Return the geometry of the model that a node loads; None where it is not known."""
    import folder_paths

    for name, folder in FOLDERS.items():
        file = loader.value(name)
        if isinstance(file, str) and file.endswith(".safetensors") and "\0" not in file:
            path = folder_paths.get_full_path(folder, file)
            found = path and read_geometry(path, Path(path).stat().st_mtime_ns)
            if found:
                return found
    return MODELS.recall(name_model(loader))


@lru_cache(maxsize=32)
def read_geometry(path: str, _changed: int) -> Geometry | None:
    """Return the geometry of a model file; None where ComfyUI does not know the model."""
    from comfy import model_detection, utils

    try:
        weights, metadata = read_header(path)
        prefix = model_detection.unet_prefix_from_state_dict(weights)
        inner = utils.state_dict_prefix_replace(dict(weights), {prefix: ""}, filter_keys=True)
        config = model_detection.model_config_from_unet(inner or weights, "", metadata=metadata)
        if config is None:
            return None
        model = config.get_model(inner or weights, "", device=torch.device("meta"))
        return Geometry.of_network(
            model.latent_format, model.diffusion_model, config, name=type(model).__name__
        )
    except Exception as error:  # of any detector of ComfyUI, for a file that it does not expect
        logging.debug("Quadtree: the model file %s was not recognised: %s", path, error)
        return None


def read_header(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, without their values, and its metadata."""
    with Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LARGEST_HEADER:
            raise ValueError(f"its header has {size} bytes")
        header = json.loads(file.read(size))
    metadata = header.pop("__metadata__", {})
    return {
        name: torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]], device="meta")
        for name, entry in header.items()
    }, metadata
