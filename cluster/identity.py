"""Whether a model here and a model on a worker are the same, and what differs in words.

Weights are compared by samples of every tensor: to read all of a large model would take longer than
a run. Patches are compared by name and by the settings that they hold.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfyui_version
import torch
from torch import Tensor

from ..sampling.rules import MODEL_WRAPPERS
from ..tiled_diffusion import KEY, TiledDiffusion

Identity = dict[str, str]  # digests or versions, by what they are of

SAMPLES = 16  # of each tensor
MOST_DEPTH = 8  # of what a patch holds within what it holds
ROOT = Path(__file__).resolve().parent.parent

# What a difference means; {there} and {here} are the two values.
WORDS = {
    "ComfyUI": "it has ComfyUI {there}, and this machine {here}; update one of them",
    "torch": "it has torch {there}, and this machine {here}; install the same version",
    "Python": "it has Python {there}, and this machine {here}; install the same version",
    "Quadtree Diffusion": "its Quadtree Diffusion is another version; update one of them",
    "model": "its model is a {there}, and that of this machine a {here}",
    "dtype": "it runs the model in {there}, and this machine in {here}; start both with the same "
    "options, such as --bf16-unet",
    "weights": "its model file has the same name, but other weights; copy the file of this machine",
    "loras": "a LoRA, or another patch of the weights, differs; copy the files of this machine",
    "sampling": "its model's noise schedule differs; use the same version of the packs that set it",
    "patches": "what nodes patched into the model differs; use the same versions of their packs",
}


def get_versions() -> Identity:
    """Return the versions that have to be the same on all machines."""
    return {
        "ComfyUI": comfyui_version.__version__,
        "torch": torch.__version__.partition("+")[0],
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "Quadtree Diffusion": _digest_sources(),
    }


@functools.cache
def _digest_sources() -> str:
    """Return a digest of the pack's own code: of what evaluates windows, and of what is sent."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("sampling/*.py"), *ROOT.glob("cluster/*")]):
        if path.suffix == ".py" and path.name != "dev.py":
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def identify(patcher: Any) -> Identity:
    """Return what has to be the same of a model, without what this pack set on it."""
    weights = hashlib.blake2b(digest_size=16)
    for key, (base, *_) in sorted(patcher.get_key_patches().items()):
        weights.update(f"{key} {_sample(base[0])};".encode())
    return {
        "model": type(patcher.model).__name__,
        "dtype": str(patcher.model_dtype()),
        "weights": weights.hexdigest(),
        "loras": digest_weight_patches(patcher),
        "sampling": digest(patcher.get_model_object("model_sampling")),
        "patches": digest(list_patches(patcher)),
    }


def digest_weight_patches(patcher: Any) -> str:
    """Return a digest of what patches a model's weights for a whole run, as LoRA do."""
    patches = hashlib.blake2b(digest_size=16)
    for key, (_, *found) in sorted(patcher.get_key_patches().items()):
        for patch in found:
            patches.update(f"{key} {''.join(describe(patch))};".encode())
    return patches.hexdigest()


def identify_control(control: Any) -> str:
    """Return a digest of a ControlNet's class and weights; empty for a kind that has none."""
    network = getattr(control, "control_model", None)
    if not isinstance(network, torch.nn.Module):
        return ""
    weights = hashlib.blake2b(type(control).__name__.encode(), digest_size=16)
    for key, value in sorted(network.state_dict().items()):
        weights.update(f"{key} {_sample(value)};".encode())
    return weights.hexdigest()


def compare(there: Identity, here: Identity) -> str:
    """Return in words how a worker differs from this machine; empty if it does not."""
    different = [name for name in here if there.get(name) != here[name]]
    words = [WORDS[name].format(there=there.get(name), here=here[name]) for name in different[:1]]
    return "".join(words)  # the first: the others follow from it, mostly


def list_patches(patcher: Any) -> dict[str, Any]:
    """Return what acts inside a call of a model, without what this pack set."""
    options = patcher.model_options
    patched = {key: value for key, value in options["transformer_options"].items() if key != KEY}
    for kind in MODEL_WRAPPERS:
        keyed = {key: value for key, value in patcher.wrappers.get(kind, {}).items() if value}
        if keyed:
            patched[f"wrappers of {kind}"] = keyed
    wrapper = options.get("model_function_wrapper")
    if isinstance(wrapper, TiledDiffusion):
        wrapper = wrapper.previous
    if wrapper is not None:
        patched["model_function_wrapper"] = wrapper
    # This pack's copy of the latent format is described as that of which it is a copy.
    latent_format = patcher.get_model_object("latent_format")
    return {**patched, "objects": {**patcher.object_patches, "latent_format": latent_format}}


def digest(value: Any) -> str:
    """Return a digest of what `describe` tells."""
    return hashlib.blake2b("".join(describe(value)).encode(), digest_size=16).hexdigest()


def describe(value: Any, depth: int = 0, seen: tuple[int, ...] = ()) -> Iterator[str]:
    """Yield the words of a text that is the same for equal values in different processes.

    Of objects it tells their class, their texts, their flags and their fractions: what they count
    or keep changes while they are used.
    """
    if isinstance(value, Tensor):
        yield _sample(value)
    elif value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype)):
        yield f"{value!r},"
    elif depth > MOST_DEPTH or id(value) in seen:
        yield "...,"
    else:
        yield f"{_name(value)}("
        for part in _parts(value):
            yield from describe(part, depth + 1, (*seen, id(value)))
        yield ")"


def _name(value: Any) -> str:
    if isinstance(value, (types.FunctionType, types.MethodType)):
        return value.__qualname__
    return type(value).__qualname__


def _parts(value: Any) -> Iterator[Any]:
    """Yield what the text about a value is made of."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield re.sub(r"0x[0-9a-f]+", "", str(key))
            yield value[key]
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (functools.partial, types.MethodType, types.FunctionType)):
        yield from _parts_of_function(value)
    elif isinstance(value, torch.nn.Module):
        yield dict(value.named_buffers(recurse=False))
        yield from _settings(value)
    elif hasattr(value, "weights") and hasattr(value, "loaded_keys"):  # a LoRA of ComfyUI
        yield value.weights
    elif not isinstance(value, (type, types.ModuleType)):
        yield from _settings(value)


def _parts_of_function(value: Any) -> Iterator[Any]:
    if isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        yield value.__self__
    else:
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # its variable has no value yet
                yield None


def _settings(value: Any) -> Iterator[Any]:
    for name, entry in sorted(getattr(value, "__dict__", {}).items()):
        if isinstance(entry, (str, bool, float)):
            yield f"{name}={entry!r}"


def _sample(value: Any) -> str:
    """Return the shape, kind and some numbers of a tensor as text."""
    if not isinstance(value, Tensor):  # weights that are read later
        return f"{type(value).__name__},"
    text = f"{tuple(value.shape)} {value.dtype}"
    if value.numel() == 0 or value.is_meta:
        return text
    flat = value.detach().reshape(-1)
    places = torch.linspace(0, flat.numel() - 1, min(SAMPLES, flat.numel()), device=flat.device)
    numbers = flat[places.long()].to(torch.float32).tolist()
    return f"{text} {numbers},"
