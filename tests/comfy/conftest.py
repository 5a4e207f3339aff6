"""The real ComfyUI, on the CPU: these tests run its own samplers, schedulers and model code."""

import torch
from quadtree_pack.benchmarks.pack import register_comfyui

register_comfyui("--cpu")
torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it gains
