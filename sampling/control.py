"""ControlNet and T2I-Adapter in windows: the hint is cut like the latent, so that control costs what the windows cost.

Core asks a control object for its features on the whole canvas, before the model-function wrapper sees the call. Here a
stand-in takes its place while core assembles the call (`Deferring`), and what that returns is evaluated when the windows are
known (`Deferred`). The user's control objects are never written to: windows use shallow copies of them.
"""

from __future__ import annotations

import copy
import threading
from collections import UserDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from comfy.controlnet import ControlBase, T2IAdapter, broadcast_image_to
from torch import Tensor

from ..utils import Box
from .conditioning import Cutter, select_conds

Features = dict[str, list[Tensor | None]]
PREPARING = threading.Lock()  # a hint may need the VAE, which threads of several GPUs share


class Deferring:
    """Stands in for a control object while core assembles a call; else it is that object."""

    def __init__(self, control: Any, hints: dict) -> None:
        self.__dict__.update(control=control, hints=hints)

    def __getattr__(self, name: str) -> Any:
        if name in ("control", "hints"):  # while a copy is made, before it has them
            raise AttributeError(name)
        return getattr(self.control, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.control, name, value)

    def get_instance_for_device(self, device: torch.device) -> Deferring:
        return Deferring(self.control.get_instance_for_device(device), self.hints)

    def get_control(
        self, noisy: Tensor, sigma: Tensor, cond: dict, conds: int, options: dict
    ) -> Deferred | None:
        deferred = Deferred(self.control, self.hints, (noisy, sigma, dict(cond), conds, options))
        return deferred if deferred.is_due() else None


class Deferred(UserDict):
    """The features of a control object for one model call. Whoever looks into it sees the whole canvas', and may change them.

    `hints` lives as long as the run and holds what is prepared once: hints at the canvas' resolution, encoded by the VAE where
    the ControlNet wants that, and adapter features. `call` is what core asked with: noisy, sigma, cond, conds, options.
    """

    def __init__(
        self, control: Any, hints: dict, call: tuple[Tensor, Tensor, dict, int, dict]
    ) -> None:
        self.control, self.hints, self.call = control, hints, call
        self.noisy, self.sigma, _, self.conds, _ = call
        self.seen: Features | None = None  # of the canvas, once somebody looked
        self.of_canvas: dict[tuple[Any, bool], Features | None] = {}
        self.first_sigma: Tensor | None = None

    @property
    def data(self) -> Features:
        if self.seen is None:
            self.seen = self._of_canvas(self.control) or {"input": [], "middle": [], "output": []}
        return self.seen

    def copy(self) -> Features:
        return dict(self.data)

    __copy__ = copy

    def __deepcopy__(self, memo: dict) -> Features:
        return copy.deepcopy(self.data, memo)

    def select_conds(self, numbers: Sequence[int]) -> Deferred:
        noisy, sigma, cond, conds, _ = self.call
        selected = select_conds(
            {**cond, "noisy": noisy, "sigma": sigma}, numbers, conds, len(noisy)
        )
        call = (
            selected.pop("noisy"),
            selected.pop("sigma"),
            selected,
            len(numbers),
            selected["transformer_options"],
        )
        return Deferred(self.control, self.hints, call)

    def on_device(
        self, device: torch.device, call: tuple[Tensor, Tensor, dict, int, dict]
    ) -> Deferred:
        """For the same call on another device of core's multi-GPU sampling."""
        return Deferred(self.control.get_instance_for_device(device), self.hints, call)

    def in_windows(self, boxes: Sequence[Box], unit: int, args: dict[str, Any]) -> Features | None:
        """Features for a batch of windows of one shape; `args` are the wrapper's arguments for them."""
        cutter = Cutter(self.noisy, boxes, self.conds, unit)
        link = self._link(self.control, cutter) if self.seen is None else _Given(cutter, self.seen)
        if link is None:
            return None
        return link.get_control(
            args["input"], args["timestep"], args["c"], self.conds, args["c"]["transformer_options"]
        )

    def _link(self, control: Any, cutter: Cutter) -> Any:
        """A copy of a control object and of those before it in its chain, for the windows; None where none is due."""
        if not _is_of_core(control):
            return _Given(cutter, self._of_canvas(control))
        earlier = (
            None
            if control.previous_controlnet is None
            else self._link(control.previous_controlnet, cutter)
        )
        if not self._is_due(control):
            return earlier
        prepare, cut = (
            (_features, _with_features) if isinstance(control, T2IAdapter) else (_hint, _with_hint)
        )
        key = control, self.noisy.shape[1:], self.noisy.device
        with PREPARING:
            if key not in self.hints:
                self.hints[key] = prepare(_alone(control), self.call)
        if self.hints[key] is None:
            return _Given(cutter, self._of_canvas(control, alone=True), earlier)
        link = _alone(control)
        link.previous_controlnet = earlier
        cut(link, self.hints[key], cutter)
        return link

    def is_due(self) -> bool:
        """Whether any control of the chain has something to say at this step; others than core's are asked for it."""
        link = self.control
        while link is not None and _is_of_core(link):
            if self._is_due(link):
                return True
            link = link.previous_controlnet
        return link is not None

    def _is_due(self, control: Any) -> bool:
        """Whether its start and end percent hold this step. Reads sigma from the device once per call, as core does."""
        if control.timestep_range is None:
            return True
        if self.first_sigma is None:
            self.first_sigma = self.sigma[
                0
            ].cpu()  # a tensor: a step on the very end is due or not as core rounds it
        start, end = control.timestep_range
        return not (self.first_sigma > start or self.first_sigma < end)

    def _of_canvas(self, control: Any, alone: bool = False) -> Features | None:
        """What it gives for the whole canvas, with those before it in its chain or `alone`; evaluated once per model call."""
        if (control, alone) not in self.of_canvas:
            asked = _alone(control) if alone else control
            self.of_canvas[control, alone] = asked.get_control(*self.call)
        return self.of_canvas[control, alone]


class _Given:
    """A link of a chain whose features are known for the whole canvas; it cuts them and adds those before it."""

    def __init__(self, cutter: Cutter, features: Features | None, earlier: Any = None) -> None:
        self.cutter, self.features, self.earlier = cutter, features, earlier

    def get_control(self, *call: Any) -> Features | None:
        earlier = None if self.earlier is None else self.earlier.get_control(*call)
        if self.features is None:
            return earlier
        return ControlBase().control_merge(cut_features(self.features, self.cutter), earlier, None)


def cut_features(features: Features, cutter: Cutter) -> Features:
    """Features of the whole canvas, a UNet's maps or a transformer's tokens, for a batch of windows."""
    shapes = {3: cutter.tokens, 4: cutter.maps, 5: cutter.maps}
    return {
        key: [
            None if value is None else shapes.get(value.ndim, cutter.whole)(value)
            for value in values
        ]
        for key, values in features.items()
    }


def _is_of_core(control: Any) -> bool:
    """Whether it does what core's own do; other packs put methods of their own on the class, or on the object."""
    methods = ("get_control", "control_merge")
    return all(
        name not in vars(control) and getattr(control, name).__module__ == "comfy.controlnet"
        for name in methods
    )


def _alone(control: Any) -> Any:
    """A copy outside of its chain and at every step."""
    link = copy.copy(control)
    link.previous_controlnet = link.timestep_range = None
    return link


class _HintReadyError(Exception):
    """The hint is prepared; the network itself is not wanted."""


class _NoNetwork:
    """A control network that stops where it would be evaluated."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, *_: Any, **__: Any) -> None:
        raise _HintReadyError


def _for_each_hint(control: Any, call: tuple) -> tuple:
    """The call with one row per hint, so that core does not repeat hints for rows."""
    noisy, sigma, cond, _, options = call
    rows = len(control.cond_hint_original)
    return noisy[:1].expand(rows, *noisy.shape[1:]), sigma[:1].expand(rows), cond, 1, options


def _hint(control: Any, call: tuple) -> Tensor | None:
    """The hint as core's own code prepares it for the canvas; None where it cannot be cut for a window."""
    if control.global_average_pooling:  # averages over the whole canvas
        return None
    control.control_model = _NoNetwork(control.control_model)
    with suppress(_HintReadyError):
        control.get_control(*_for_each_hint(control, call))
    noisy, hint = call[0], control.cond_hint
    fits = [length * control.compression_ratio for length in noisy.shape[2:4]] == list(
        hint.shape[2:4]
    )
    return hint if fits else None  # else core would rescale the whole hint into every window


def _with_hint(link: Any, hint: Tensor, cutter: Cutter) -> None:
    link.cond_hint = cutter.scaled(broadcast_image_to(hint, cutter.rows, cutter.conds))
    link.cond_hint_original = None


def _features(control: Any, call: tuple) -> Features:
    control.get_control(*_for_each_hint(control, call))
    return control.control_input


def _with_features(link: Any, features: Features, cutter: Cutter) -> None:
    rows = {
        key: [
            None if value is None else broadcast_image_to(value, cutter.rows, cutter.conds)
            for value in values
        ]
        for key, values in features.items()
    }
    link.control_input = cut_features(rows, cutter)
    box = cutter.boxes[0]
    size = box.height * link.compression_ratio, box.width * link.compression_ratio
    link.cond_hint = torch.empty(1).expand(
        1, 1, *size
    )  # only its size is looked at: the features are there
