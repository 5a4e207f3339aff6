"""Reads from a workflow which prompts a sampler gets and where each counts, for the price of a run.

Prompts are conditionings of ComfyUI without their texts: lists of [None, options], of which the
masks are known. Nodes of this pack weigh them with the code that runs in the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..sampling.prompts import Conditioning, set_prompts
from .files import RequestError
from .inputs import check_prompt_regions
from .passing import Applier, PassingError, list_inputs
from .workflow import Link, Node

TYPE = "CONDITIONING"
# Nodes that join prompts into one entry: the first of their inputs tells how many there are.
JOINING = {"ConditioningConcat", "ConditioningAverage"}
# Nodes that let a prompt act in a part of the image or of the steps, which is not followed.
LIMITING = {
    *["ConditioningSetArea", "ConditioningSetAreaPercentage", "ConditioningSetAreaPercentageVideo"],
    *[
        "ConditioningSetTimestepRange",
        "ConditioningTimestepsRange",
        "ConditioningSetDefaultCombine",
    ],
}
INPAINTING = {"InpaintModelConditioning", "ControlNetInpaintingAliMamaApply"}  # no masks of prompts

Regions = Callable[[Node], "list[Tensor] | None"]


class PromptReader:
    """Reads the prompts of one workflow; `guessed` tells that some may count in fewer cells.

    `cut_crops` gives the regions of a Quadtree Crops, None where they are not known.
    """

    def __init__(self, applier: Applier, cut_crops: Regions) -> None:
        self.applier = applier
        self.cut_crops = cut_crops
        self.guessed = False

    def read_sampler(self, nodes: Sequence[Node], cfg: float) -> Conditioning:
        """Return the prompts that a sampler or its guider gets; `nodes` are those of its model.

        At a cfg of 1 ComfyUI evaluates no negative ones. Empty where no prompt is connected.
        """
        found: Conditioning = []
        for node in nodes:
            for name in _list_linked(node, TYPE):
                if name != "negative" or cfg != 1:
                    found += self.read(node.link(name))
        return found

    def read(self, link: Link | None) -> Conditioning:
        """Return the prompts of a link."""
        node = link and self.applier.workflow.nodes.get(link.node)
        if link is None or node is None:
            self.guessed = True
            return [[None, {}]]
        read = READERS.get(node.kind)
        return read(self, node) if read else self._pass_on(node, link.slot)

    def _pass_on(self, node: Node, slot: int) -> Conditioning:
        """Return the prompts of a node's output that come through one of its inputs.

        A node that gets no prompts makes one. Those that give as many as they get, as Apply
        ControlNet does, pass them on in their order.
        """
        linked = _list_linked(node, TYPE)
        if not linked:
            return [[None, {}]]
        place = _list_outputs(node)[:slot].count(TYPE)
        passes = len(linked) == 1 or len(linked) == _list_outputs(node).count(TYPE)
        has_mask = bool(_list_linked(node, "MASK")) and node.kind not in INPAINTING
        is_limited = node.kind in LIMITING or has_mask
        self.guessed |= is_limited or not (passes or node.kind in JOINING)
        return self.read(node.link(linked[min(place, len(linked) - 1) if passes else 0]))

    def _combine(self, node: Node) -> Conditioning:
        return [*self.read(node.link("conditioning_1")), *self.read(node.link("conditioning_2"))]

    def _set_mask(self, node: Node) -> Conditioning:
        prompts = self.read(node.link("conditioning"))
        mask = self._compute(node.link("mask"))
        if mask is None:
            return prompts
        self.guessed |= node.value("set_cond_area") != "default"
        strength = node.number_of("strength")
        values = {"mask": mask, "mask_strength": 1.0 if strength is None else strength}
        return [[text, {**options, **values}] for text, options in prompts]

    def _set_prompts(self, node: Node) -> Conditioning:
        base = self.read(node.link("conditioning"))
        prompts = self._list_prompts(node.link("prompts"))
        regions = self._list_regions(node.link("regions"))
        if regions is None:
            return [*base, *(entry for prompt in prompts for entry in prompt)]
        if len(prompts) == 1:
            prompts *= len(regions)  # one for each crop, of a captioner
        feather_px, strength = node.number_of("feather"), node.number_of("strength")
        return set_prompts(
            base,
            prompts,
            check_prompt_regions(len(prompts), regions),
            feather_px=64 if feather_px is None else int(feather_px),
            strength=1.0 if strength is None else strength,
        )

    def _list_prompts(self, link: Link | None) -> list[Conditioning]:
        return [self.read(one) for one in self._list_links(link)]

    def _list_regions(self, link: Link | None) -> list[Tensor] | None:
        """Return the masks of a link, which may be a list; None where one is not known."""
        masks: list[Tensor] = []
        for one in self._list_links(link):
            node = one and self.applier.workflow.nodes.get(one.node)
            if node and node.kind == "QuadtreeCrops":
                found = self.cut_crops(node)
            else:
                found = _as_list(self._compute(one))
            if found is None:
                self.guessed = True
                return None
            masks += found
        return masks

    def _list_links(self, link: Link | None) -> list[Link | None]:
        """Return the links that a Create List joins, or a link itself."""
        node = link and self.applier.workflow.nodes.get(link.node)
        if not node or node.kind != "CreateList":
            return [link]
        links = [node.link(name) for name, one in node.inputs.items() if isinstance(one, list)]
        return [each for one in links for each in self._list_links(one)]

    def _compute(self, link: Link | None) -> Tensor | None:
        """Return a mask [1, h, w]; None where only a run has it."""
        try:
            mask = self.applier.compute(link)
        except (PassingError, RequestError):
            self.guessed = True
            return None
        return mask if mask.ndim == 3 else mask[None]


def _as_list(mask: Tensor | None) -> list[Tensor] | None:
    return None if mask is None else [mask]


READERS: dict[str, Callable[[PromptReader, Node], Conditioning]] = {
    "ConditioningCombine": PromptReader._combine,
    "ConditioningSetMask": PromptReader._set_mask,
    "QuadtreePrompts": PromptReader._set_prompts,
}


def _list_linked(node: Node, kind: str) -> list[str]:
    """Return the names of a node's linked inputs of a type."""
    known = list_inputs(node.kind)
    return [
        name
        for name, value in node.inputs.items()
        if isinstance(value, list) and known.get(name, ("",))[0] == kind
    ]


def _list_outputs(node: Node) -> list[str]:
    """Return the types of the outputs of a node."""
    import nodes  # ComfyUI's own

    return list(getattr(nodes.NODE_CLASS_MAPPINGS.get(node.kind), "RETURN_TYPES", ()))
