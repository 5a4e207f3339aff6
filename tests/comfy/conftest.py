"""Puts the real ComfyUI on the path, on the CPU: these tests run its own samplers, schedulers and model code."""

import os
import sys
from pathlib import Path

import pytest

COMFYUI = os.environ.get("COMFYUI_PATH")
if not COMFYUI or not (Path(COMFYUI) / "comfy").is_dir():
    raise pytest.UsageError("COMFYUI_PATH names no ComfyUI; run the tests by `python dev.py test`.")

sys.path.insert(0, COMFYUI)
arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu"]  # ComfyUI reads its options when it is first imported
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management  # noqa: E402

sys.argv = arguments

import torch  # noqa: E402

torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it gains
