"""ControlNet and T2I-Adapter in windows: the hint is cropped like the latent, so that control
costs what the windows cost.

Core asks a control object for its features on the whole canvas, before the model-function wrapper
sees the call. Here a `ControlProxy` takes the object's place while core assembles the call; it
returns a `DeferredControl`, which is evaluated when the windows are known. The user's control
objects are never written to: windows use shallow copies of them.
"""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from comfy.controlnet import ControlBase, T2IAdapter, broadcast_image_to
from torch import Tensor

from ..utils import Box
from ..windows.tiling import Images
from .conditioning import select_conds
from .cropping import Cropper
from .patch_controls import PREPARING
from .protocols import Conds, Control, Features, Hints, ModelCall, Options


class ControlCall(NamedTuple):
    """What core asks a control object with: the arguments of `ControlBase.get_control`."""

    noisy: Tensor
    sigma: Tensor
    cond: Conds
    conds: int
    options: Options


class ControlProxy:
    """Stands in for a control object while core assembles a call; otherwise it is that object."""

    def __init__(self, control: Any, hints: Hints) -> None:
        self.__dict__.update(control=control, hints=hints)

    def __getattr__(self, name: str) -> Any:
        if name in ("control", "hints"):  # asked while a copy is made, before it has them
            raise AttributeError(name)
        return getattr(self.control, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.control, name, value)

    def get_instance_for_device(self, device: torch.device) -> ControlProxy:
        return ControlProxy(self.control.get_instance_for_device(device), self.hints)

    def get_control(
        self, noisy: Tensor, sigma: Tensor, cond: Conds, conds: int, options: Options
    ) -> DeferredControl | None:
        """Return the features for later; None if no control of the chain is due at this step."""
        call = ControlCall(noisy, sigma, dict(cond), conds, options)
        deferred = DeferredControl(self.control, self.hints, call)
        return deferred if deferred.is_any_due() else None


class DeferredControl(UserDict[str, list[Tensor | None]]):
    """The features of a control object for one model call, evaluated when they are needed.

    Whoever looks into it sees the features of the whole canvas, and may change them. `hints` lives
    as long as the run and holds what is prepared once: hints at the canvas' resolution, encoded by
    the VAE where the ControlNet wants that, and adapter features.
    """

    def __init__(self, control: Any, hints: Hints, call: ControlCall) -> None:
        self.control, self.hints, self.call = control, hints, call
        self._seen: Features | None = None  # of the canvas, once somebody looked
        self._of_canvas: dict[tuple[Any, bool], Features | None] = {}
        self._first_sigma: Tensor | None = None

    @property
    def data(self) -> Features:  # type: ignore[override]  # UserDict has a plain attribute
        if self._seen is None:
            features = self._evaluate_canvas(self.control)
            self._seen = features or {"input": [], "middle": [], "output": []}
        return self._seen

    def copy(self) -> Features:  # type: ignore[override]  # a plain dict: nothing is deferred in it
        return dict(self.data)

    def __copy__(self) -> Features:  # type: ignore[override]
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Features:
        return copy.deepcopy(self.data, memo)

    def select_conds(self, numbers: Sequence[int]) -> DeferredControl:
        """Return the same for some conds of the call, in this order."""
        call = self.call
        entries = {**call.cond, "noisy": call.noisy, "sigma": call.sigma}
        cond = select_conds(entries, numbers, conds=call.conds, rows=len(call.noisy))
        noisy, sigma = cond.pop("noisy"), cond.pop("sigma")
        selected = ControlCall(noisy, sigma, cond, len(numbers), cond["transformer_options"])
        return DeferredControl(self.control, self.hints, selected)

    def move(self, device: torch.device, move_value: Callable[[Any], Any]) -> DeferredControl:
        """Return the same for another device of core's multi-GPU sampling."""
        call = ControlCall(*map(move_value, self.call))
        return DeferredControl(self.control.get_instance_for_device(device), self.hints, call)

    def evaluate_foreign(self) -> None:
        """Ask controls of other packs before windows are cut: they may mark the call's options."""
        link = self.control
        while link is not None and _is_core_control(link):
            link = link.previous_controlnet
        if link is not None:
            self._evaluate_canvas(link)

    def list_hints(self) -> list[tuple[Any, Tensor]] | None:
        """Return the ControlNets that are due and their hints for the canvas, the earliest first.

        None where features depend on more: on another pack's control, on an adapter, or on what
        somebody changed in them.
        """
        hints: list[tuple[Any, Tensor]] = []
        link = self.control
        while link is not None:
            if self._seen is not None or not _is_core_control(link):
                return None
            if self._is_due(link):
                is_adapter = isinstance(link, T2IAdapter)
                prepared = None if is_adapter else self._prepare(link, CONTROLNET)
                if prepared is None:
                    return None
                hints.append((link, prepared))
            link = link.previous_controlnet
        return hints[::-1]

    def evaluate_windows(
        self,
        boxes: Sequence[Box],
        unit: int,
        window_call: ModelCall,
        images: Sequence[Images] | None = None,
    ) -> Features | None:
        """Return the features for a batch of windows of one shape, whose model call this is."""
        cropper = Cropper(self.call.noisy, boxes, conds=self.call.conds, unit=unit, images=images)
        chain = self._chain_for(cropper)
        if chain is None:
            return None
        noisy, sigma, c = window_call["input"], window_call["timestep"], window_call["c"]
        return chain.get_control(noisy, sigma, c, self.call.conds, c["transformer_options"])

    def _chain_for(self, cropper: Cropper) -> Any:
        """Return what gives the features for the windows; None where no control is due."""
        if self._seen is not None:  # whoever looked may have changed them
            return PrecomputedControl(cropper, self._seen)
        return self._build_chain(self.control, cropper)

    def _build_chain(self, control: Any, cropper: Cropper) -> Any:
        """Return copies for the windows of a control object and of those before it in its chain.

        Returns None where none of them is due.
        """
        if not _is_core_control(control):
            return PrecomputedControl(cropper, self._evaluate_canvas(control))
        earlier = None
        if control.previous_controlnet is not None:
            earlier = self._build_chain(control.previous_controlnet, cropper)
        if not self._is_due(control):
            return earlier
        kind = ADAPTER if isinstance(control, T2IAdapter) else CONTROLNET
        prepared = self._prepare(control, kind)
        if prepared is None:
            features = self._evaluate_canvas(control, alone=True)
            return PrecomputedControl(cropper, features, earlier)
        link = _copy_alone(control)
        link.previous_controlnet = earlier
        kind.set_cropped(link, prepared, cropper)
        return link

    def _prepare(self, control: Any, kind: ControlKind) -> Any:
        """Return what the control prepares for the canvas, once per run and device."""
        noisy = self.call.noisy
        key: Hashable = control, noisy.shape[1:], noisy.device
        with PREPARING:
            if key not in self.hints:
                self.hints[key] = kind.prepare(_copy_alone(control), self.call)
        return self.hints[key]

    def is_foreign(self) -> bool:
        """Tell whether any control of the chain is another pack's."""
        link = self.control
        while link is not None and _is_core_control(link):
            link = link.previous_controlnet
        return link is not None

    def is_any_due(self) -> bool:
        """Tell whether any control of the chain is due; other packs' controls always are."""
        link = self.control
        while link is not None and _is_core_control(link):
            if self._is_due(link):
                return True
            link = link.previous_controlnet
        return link is not None

    def _is_due(self, control: Any) -> bool:
        """Tell whether the control's start and end percent hold this step.

        Reads sigma from the device once per call, as core does.
        """
        if control.timestep_range is None:
            return True
        if self._first_sigma is None:
            # A tensor: a step on the very end is due or not as core rounds it.
            self._first_sigma = self.call.sigma[0].cpu()
        start, end = control.timestep_range
        return not (self._first_sigma > start or self._first_sigma < end)

    def _evaluate_canvas(self, control: Any, alone: bool = False) -> Features | None:
        """Return the features of the whole canvas, evaluated once per model call.

        They include those of the earlier controls in the chain, unless `alone`.
        """
        key = control, alone
        if key not in self._of_canvas:
            asked = _copy_alone(control) if alone else control
            self._of_canvas[key] = asked.get_control(*self.call)
        return self._of_canvas[key]


class PrecomputedControl:
    """A link of a chain whose features are known for the whole canvas: it crops them.

    The features of the links before it are added.
    """

    def __init__(self, cropper: Cropper, features: Features | None, earlier: Any = None) -> None:
        self.cropper, self.features, self.earlier = cropper, features, earlier

    def get_control(self, *call: Any) -> Features | None:
        earlier = None if self.earlier is None else self.earlier.get_control(*call)
        if self.features is None:
            return earlier
        cropped = crop_features(self.features, self.cropper)
        return ControlBase().control_merge(cropped, earlier, None)


def defer(cond: Conds, get_proxy: Callable[..., Control]) -> Conds:
    """Return the cond with a proxy for its control object, if it has one."""
    control = cond.get("control")
    return cond if control is None else {**cond, "control": get_proxy(control, ControlProxy)}


def crop_features(features: Features, cropper: Cropper) -> Features:
    """Crop features of the whole canvas: a UNet's maps, or a transformer's tokens."""
    by_rank = {3: cropper.crop_tokens, 4: cropper.crop_feature_map, 5: cropper.crop_feature_map}

    def crop_one(value: Tensor | None) -> Tensor | None:
        return None if value is None else by_rank.get(value.ndim, cropper.pass_whole)(value)

    return {key: [crop_one(value) for value in values] for key, values in features.items()}


def crop_control(
    control: Any,
    call: ModelCall,
    boxes: Sequence[Box],
    unit: int,
    window_call: ModelCall,
    images: Sequence[Images] | None = None,
) -> Features | None:
    """Return the features that go with a batch of windows: `window_call`, cropped from `call`.

    `control` is the call's: a DeferredControl, or the features of the whole canvas.
    """
    if isinstance(control, DeferredControl):
        return control.evaluate_windows(boxes, unit, window_call, images)
    conds = len(call["cond_or_uncond"])
    cropper = Cropper(call["input"], boxes, conds=conds, unit=unit, images=images)
    return crop_features(control, cropper)


def _is_core_control(control: Any) -> bool:
    """Tell whether a control does what core's own do.

    Other packs put methods of their own on the class, or on the object.
    """
    for name in ("get_control", "control_merge"):
        if name in vars(control) or getattr(control, name).__module__ != "comfy.controlnet":
            return False
    return True


def _copy_alone(control: Any) -> Any:
    """Return a copy outside of its chain that is due at every step."""
    link = copy.copy(control)
    link.previous_controlnet = link.timestep_range = None
    return link


# ---- what a control prepares for the canvas, and how a copy of it gets that for the windows


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


def _call_per_hint(control: Any, call: ControlCall) -> ControlCall:
    """Return the call with one row per hint, so that core does not repeat hints for rows."""
    rows = len(control.cond_hint_original)
    noisy = call.noisy[:1].expand(rows, *call.noisy.shape[1:])
    return call._replace(noisy=noisy, sigma=call.sigma[:1].expand(rows), conds=1)


def _prepare_hint(control: Any, call: ControlCall) -> Tensor | None:
    """Return the hint as core's own code prepares it; None if it cannot be cropped to windows."""
    if control.global_average_pooling:  # averages over the whole canvas
        return None
    control.control_model = _NoNetwork(control.control_model)
    with suppress(_HintReadyError):
        control.get_control(*_call_per_hint(control, call))
    hint = control.cond_hint
    expected = [length * control.compression_ratio for length in call.noisy.shape[2:4]]
    # A hint of another size would be resized by core: the whole of it into every window.
    return hint if expected == list(hint.shape[2:4]) else None


def crop_hint(hint: Tensor, cropper: Cropper) -> Tensor:
    """Crop a ControlNet's hint for the canvas to windows, with a row for each of the call's.

    A part is contiguous, as on a worker: convolutions round by how their input lies in memory. The
    whole is left as ComfyUI would give it.
    """
    part = cropper.crop_grid(broadcast_image_to(hint, cropper.rows, cropper.conds))
    return part if part.shape[-2:] == hint.shape[-2:] else part.contiguous()


def _set_cropped_hint(link: Any, hint: Tensor, cropper: Cropper) -> None:
    link.cond_hint = crop_hint(hint, cropper)
    link.cond_hint_original = None


def _prepare_features(control: Any, call: ControlCall) -> Features:
    control.get_control(*_call_per_hint(control, call))
    return control.control_input


def _set_cropped_features(link: Any, features: Features, cropper: Cropper) -> None:
    def for_rows(value: Tensor | None) -> Tensor | None:
        return None if value is None else broadcast_image_to(value, cropper.rows, cropper.conds)

    rows = {key: [for_rows(value) for value in values] for key, values in features.items()}
    link.control_input = crop_features(rows, cropper)
    box = cropper.boxes[0]
    size = box.height * link.compression_ratio, box.width * link.compression_ratio
    # Core looks at the hint's size only: the features are there already.
    link.cond_hint = torch.empty(1).expand(1, 1, *size)


class ControlKind(NamedTuple):
    """How a kind of control is prepared for the canvas, and how a copy is given that cropped."""

    prepare: Callable[[Any, ControlCall], Any]
    set_cropped: Callable[[Any, Any, Cropper], None]


CONTROLNET = ControlKind(_prepare_hint, _set_cropped_hint)
ADAPTER = ControlKind(_prepare_features, _set_cropped_features)
