"""What runs on a worker: it builds the model of a prompt's branch and evaluates windows with it.

ComfyUI's own executor runs the branch, so loaders, LoRA and the nodes of other packs do what they
do on the head, with this machine's files; what has not changed is not made again. Windows come as
packed values (see packing.py).
"""

from __future__ import annotations

import asyncio
import copy
import gc
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import execution
import torch
from comfy.controlnet import StrengthType
from comfy.patcher_extension import merge_nested_dicts
from torch import Tensor

import nodes

from ..sampling.conditioning import cropper_of, cut_options, cutter_of
from ..sampling.cropping import Cropper, RunMemory
from ..sampling.evaluation import call_model
from ..sampling.model import Geometry
from ..sampling.parallel import move_value
from ..sampling.protocols import ModelCall
from ..sampling.rules import fit_to_windows
from ..tiled_diffusion import KEY
from ..utils import Box
from ..windows.memory import is_oom
from .branch import SINK, SINK_ID, Prompt
from .identity import Identity, get_versions, identify, identify_control
from .packing import pack, unpack
from .rounding import evaluate_network


class Sink:
    """A node that takes what a branch makes; only workers have it."""

    RETURN_TYPES = ()
    FUNCTION = "take"
    OUTPUT_NODE = True
    taken: ClassVar[list[Any]] = []

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - as ComfyUI names it
        return {"required": {"value": ("*",)}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:  # noqa: N802
        return float("nan")  # a new one equals none: it runs at every prompt

    def take(self, value: Any) -> tuple:
        self.taken[:] = [value]
        return ()


class Worker:
    """The model that this process built last, and the run that it is part of."""

    def __init__(self, server: Any, threads: int | None) -> None:
        nodes.NODE_CLASS_MAPPINGS[SINK] = Sink
        self.server = server
        if threads and comfy.model_management.get_torch_device().type == "cpu":
            torch.set_num_threads(threads)  # sums are then added up in the same order
        self.run: WorkerRun | None = None
        self._reset()

    def forget(self) -> None:
        """Forget the model and what the nodes of its branch keep, and free their memory."""
        self.free_memory()
        self._reset()
        gc.collect()
        comfy.model_management.soft_empty_cache()

    def _reset(self) -> None:
        self.patcher: Any = None
        self.executor = _make_executor(self.server)
        # Of its own: one cache would drop the model's nodes.
        self.control_executor = _make_executor(self.server)
        self.control_branches: list[Prompt] = []
        self.unbuilt: list[Prompt] = []  # those that were not needed yet
        self.controls: dict[str, Any] = {}  # what the others make, by digest
        self.failures: list[str] = []  # of those that cannot be built here

    def versions(self) -> Identity:
        return get_versions()

    def is_oom(self, error: Exception) -> bool:
        """Tell whether the device, or the machine, had no memory left."""
        return is_oom(error) or isinstance(error, MemoryError)

    def build(self, branch: Prompt, controls: list[Prompt]) -> Identity:
        """Run a prompt's branch and return the identity of its model; ValueError in words."""
        self.end_run()
        if controls != self.control_branches:
            self.control_branches, self.unbuilt = controls, list(controls)
            self.controls, self.failures = {}, []
        self.patcher = self._run_prompt(branch, self.executor)
        with torch.inference_mode():
            return identify(self.patcher)

    def _run_prompt(self, prompt: Prompt, executor: execution.PromptExecutor) -> Any:
        prompt_id = uuid.uuid4().hex
        valid, error, outputs, of_nodes = asyncio.run(
            execution.validate_prompt(prompt_id, prompt, [SINK_ID])
        )
        if not valid or outputs != [SINK_ID] or of_nodes:
            raise ValueError(_say_invalid(error, of_nodes))
        Sink.taken.clear()
        executor.execute(prompt, prompt_id, {}, outputs)
        if not Sink.taken:
            raise ValueError(_say_failed(executor.status_messages))
        return Sink.taken.pop()

    def evaluate(self, message: dict[str, Any]) -> Any:
        """Return what the model makes of a batch of windows, packed; on the CPU."""
        if self.patcher is None:
            raise ValueError("it has no model yet")
        with torch.inference_mode():
            if self.run is None or self.run.number != message["run"]:
                self.end_run()
                self.run = WorkerRun(self.patcher, message, self.find_control)
            return pack(self.run.evaluate(message))

    def find_control(self, digest: str) -> Any:
        """Return the ControlNet with a digest; those of the prompt are built until it is found."""
        while digest not in self.controls and self.unbuilt:
            try:
                control = self._run_prompt(self.unbuilt.pop(0), self.control_executor)
            except ValueError as error:  # it may be one that is not needed
                self.failures.append(str(error))
                continue
            self.controls[identify_control(control)] = control
        if digest not in self.controls:
            other = "its ControlNet has other weights; copy the file of this machine"
            raise ValueError("; ".join(self.failures) or other)
        return self.controls[digest]

    def free_memory(self) -> None:
        """Free all memory of the device, as ComfyUI does when it runs out of it."""
        self.end_run()
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()

    def end_run(self) -> None:
        """Forget what belongs to a run; the model stays loaded."""
        if self.run is not None:
            self.run.close()
            self.run = None


class WorkerRun:
    """One sampling run: the model, prepared as ComfyUI does before it samples."""

    def __init__(
        self, patcher: Any, message: dict[str, Any], find_control: Callable[[str], Any]
    ) -> None:
        self.number = message["run"]
        self.find_control = find_control
        self.loaded: dict[str, Any] = {}  # ControlNets on the device, by their digest
        self.patcher = patcher
        geometry = Geometry.of(patcher)
        self.memory = RunMemory(unit=geometry.unit, image_first=geometry.image_first)
        self.shared: dict[str, Tensor] = {}
        self.sigma: float | None = None
        self.device = patcher.load_device
        options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
        options.setdefault("transformer_options", {}).pop(KEY, None)
        comfy.sampler_helpers.prepare_model_patcher(patcher, {}, options)
        self.model, _, self.models = comfy.sampler_helpers.prepare_sampling(
            patcher, message["input"][1][1], {}, options
        )
        comfy.samplers.cast_to_load_options(
            options, device=self.device, dtype=patcher.model_dtype()
        )
        patcher.pre_run()
        self.options = options

    def close(self) -> None:
        self.patcher.cleanup()
        comfy.sampler_helpers.cleanup_models({}, self.models)

    def evaluate(self, message: dict[str, Any]) -> Tensor:
        """Return the denoised windows [rows, C, ..., h, w] on the CPU.

        Of windows that were rounded on their way, return what the network makes of them.
        """
        call, cropper, window_call = self._unpack_call(message)
        options = fit_to_windows(call["c"]["transformer_options"])
        if self.sigma is None:
            cutter_of(call, self.memory).note_maps(options)
        window_call["c"]["transformer_options"] = cut_options(options, call, cropper, self.memory)
        self._note_sigma(call)
        control = self._chain_controls(message)
        if control is not None:
            c = window_call["c"]
            c["control"] = control.get_control(
                window_call["input"],
                window_call["timestep"],
                c,
                len(message["conds"]),
                c["transformer_options"],
            )
        wrapper = self.options.get("model_function_wrapper")
        with comfy.model_management.cuda_device_context(self.device):
            if message["rounded"]:
                return evaluate_network(self.model, window_call).cpu()
            return call_model(wrapper, self.model.apply_model, window_call).cpu()

    def _chain_controls(self, message: dict[str, Any]) -> Any:
        """Return the ControlNets of a message with the windows' hints, the latest; None if none."""
        earlier = None
        for digest, settings, hint in self._load(message["controls"]):
            if digest not in self.loaded:
                control = self.find_control(digest)
                comfy.model_management.load_models_gpu([self.patcher, *control.get_models()])
                self.loaded[digest] = control
            link = copy.copy(self.loaded[digest])
            link.strength_type = StrengthType[settings.pop("strength_type")]
            vars(link).update(settings, cond_hint=hint, cond_hint_original=None)
            link.timestep_range, link.previous_controlnet = None, earlier
            link.model_sampling_current = self.model.model_sampling
            earlier = link
        return earlier

    def _note_sigma(self, call: ModelCall) -> None:
        """Tell patches of a new step, as ComfyUI does."""
        sigma = float(call["timestep"][0])
        if sigma != self.sigma:
            self.sigma = sigma
            self.patcher.prepare_state(call["c"]["transformer_options"]["sigmas"], self.options)

    def _unpack_call(self, message: dict[str, Any]) -> tuple[ModelCall, Cropper, ModelCall]:
        """Return the call on the whole canvas, its pixels unknown, what crops it, and that of the
        windows."""
        whole = self._load(message["whole"])
        conds, shape = message["conds"], message["canvas"]
        canvas = torch.zeros(1, device=self.device).expand(shape)
        options = merge_nested_dicts(
            self.patcher.apply_hooks(hooks=None),
            self.options["transformer_options"],
            copy_dict1=False,
        )
        options = {**options, **self._load(message["options"])}
        noisy, sigma = self._load(message["input"]), self._load(message["timestep"])
        call: ModelCall = {
            "input": canvas,
            "timestep": sigma,
            "c": {**whole, "transformer_options": options},
            "cond_or_uncond": conds,
        }
        boxes = [Box(*edges) for edges in message["boxes"]]
        cropper = cropper_of(call, boxes, message["unit"], message["images"])
        repeated = {key: cropper.pass_whole(value) for key, value in whole.items()}
        c = {**repeated, **self._load(message["cut"])}
        return call, cropper, {**call, "input": noisy, "c": c}

    def _load(self, packed: Any) -> Any:
        return move_value(unpack(packed, self._fetch), self.device)

    def _fetch(self, shared: tuple[str, list[Any]]) -> Tensor:
        """Return a tensor that was sent once for the whole run."""
        digest, references = shared
        if digest not in self.shared:
            import ray  # this is a worker of it

            self.shared[digest] = unpack(ray.get(references[0])).to(self.device)
        return self.shared[digest]


def _make_executor(server: Any) -> execution.PromptExecutor:
    """Return what runs prompts and remembers the nodes of the latest one."""
    cache_args = {"lru": 0, "ram": 0, "ram_inactive": 0}
    return execution.PromptExecutor(server, execution.CacheType.CLASSIC, cache_args)


def _say_invalid(error: Any, of_nodes: dict[str, Any]) -> str:
    """Return in words why a branch cannot run here: a missing file, or a missing pack."""
    details = [
        f"{found['details']} ({node['class_type']})"
        for node in of_nodes.values()
        for found in node["errors"]
    ]
    told = "; ".join(details) or str((error or {}).get("message", error))
    return f"it cannot make the model: {told}. Give it the same files and node packs"


def _say_failed(messages: list[tuple[str, dict]]) -> str:
    """Return in words how a branch failed here."""
    for event, data in messages:
        if event == "execution_error":
            return f"{data['node_type']} failed there: {data['exception_message'].strip()}"
    return "the nodes that make the model gave nothing there"
