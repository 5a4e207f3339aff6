"""What goes to the model with a window: what lies on the canvas is cut like the latent, the rest goes whole.

Rows of a batch of windows are cond-major: all windows of the first cond, then all of the next, each with its whole latent
batch. So patches that do `x.chunk(len(cond_or_uncond))` find what they look for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import floordiv
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import Box, ceil_div, warn


def stack_windows(value: Tensor, boxes: Sequence[Box], conds: int) -> Tensor:
    """[conds * B, ..., H, W] cut to boxes of one shape, as [conds * len(boxes) * B, ..., h, w]."""
    if len(boxes) == 1:
        return value[(..., *boxes[0].slices)]
    value = value.unflatten(0, (conds, -1))
    return torch.stack([value[(..., *box.slices)] for box in boxes], dim=1).flatten(0, 2)


def repeat_rows(value: Tensor, windows: int, conds: int) -> Tensor:
    """[conds * B, ...] repeated for each window, as [conds * windows * B, ...]."""
    if windows == 1:
        return value
    value = value.unflatten(0, (conds, -1))
    return value[:, None].expand(-1, windows, *value.shape[1:]).flatten(0, 2)


def unstack_windows(value: Tensor, windows: int, conds: int) -> tuple[Tensor, ...]:
    """The inverse of `stack_windows`: one [conds * B, ..., h, w] per window."""
    return tuple(part.flatten(0, 1) for part in value.unflatten(0, (conds, windows, -1)).unbind(1))


def scale_of(canvas: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int] | None:
    """(times finer, times coarser) of a grid that lies over the canvas in whole steps; None for any other."""
    finer = grid[0] // canvas[0]
    if finer and grid == (finer * canvas[0], finer * canvas[1]):
        return finer, 1
    for divided in (
        ceil_div,
        floordiv,
    ):  # up first: so networks reduce; on tiny canvases both may fit
        for coarser in (2, 4, 8, 16, 32, 64):
            if grid == tuple(divided(length, coarser) for length in canvas):
                return 1, coarser
    return None


def on_grid(box: Box, canvas: tuple[int, int], grid: tuple[int, int]) -> Box:
    """A box of the canvas in cells of a grid over it; ValueError where it does not start and end on them."""
    scale = scale_of(canvas, grid)
    if scale is None or box.x0 % scale[1] or box.y0 % scale[1]:
        raise ValueError(
            f"A conditioning of {grid[1]} x {grid[0]} cells over a latent of {canvas[1]} x {canvas[0]} cannot be cut into "
            "windows. Give it the latent's size, or sample without Quadtree Diffusion."
        )
    finer, coarser = scale
    x0, y0, x1, y1 = (ceil_div(edge * finer, coarser) for edge in box)
    return Box(x0, y0, min(x1, grid[1]), min(y1, grid[0]))


class Cutter:
    """Cuts one model call of `noisy` [rows, C, ..., H, W] with `conds` conds into a batch of windows of one shape."""

    def __init__(
        self, noisy: Tensor, boxes: Sequence[Box], conds: int, unit: int, text_tokens: int = 0
    ) -> None:
        self.boxes, self.conds = boxes, conds
        self.rows, self.canvas = len(noisy), tuple(noisy.shape[-2:])
        self.unit, self.text_tokens = unit, text_tokens
        self.units = tuple(
            ceil_div(length, unit) for length in self.canvas
        )  # a transformer's patches, down and across

    def whole(self, value: Any) -> Any:
        """The same for every window."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.whole(entry) for entry in value)
        has_rows = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == self.rows
        return repeat_rows(value, len(self.boxes), self.conds) if has_rows else value

    def scaled(self, value: Tensor) -> Tensor:
        """The canvas at any whole multiple or fraction of its resolution, [1 or rows, ..., h, w]."""
        boxes = [on_grid(box, self.canvas, tuple(value.shape[-2:])) for box in self.boxes]
        if len(boxes) > 1:
            value = value.expand(self.rows, *value.shape[1:])
        return stack_windows(value, boxes, self.conds)

    def tokens(self, value: Tensor) -> Tensor:
        """One token per patch, frame by frame, [1 or rows, frames * patches, width]."""
        rows, columns = self.units
        if value.shape[1] % (rows * columns):
            raise ValueError(
                f"{value.shape[1]} tokens do not lie on the {columns} x {rows} patches of this latent and cannot be cut. "
                "Sample without Quadtree Diffusion."
            )
        planes = value.unflatten(1, (-1, rows, columns)).movedim(-1, 1)
        return self.scaled(planes).movedim(1, -1).flatten(1, 3)

    def maps(self, value: Tensor) -> Tensor:
        """A feature map, [1 or rows, C, ..., h, w]. One that windows cannot be cut from is spread over the canvas first, as
        Stable Cascade's stage C, which is cut at single cells, does it."""
        if value.ndim == 4 and self.unit % self._coarser(value):
            value = F.interpolate(value, size=self.canvas, mode="bilinear", align_corners=True)
        return self.scaled(value)

    def _coarser(self, value: Tensor) -> int:
        """How many cells of the canvas a cell of `value` covers along a side."""
        return (scale_of(self.canvas, tuple(value.shape[-2:])) or (1, 1))[1]

    def latent(self, value: Any) -> Any:
        """What belongs to a cell of the canvas; resampled where its resolution is another one, whole where it has none."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.latent(entry) for entry in value)
        if not isinstance(value, Tensor) or value.ndim < 3 or value.shape[-2:] == (1, 1):
            return self.whole(value)
        if value.shape[0] not in (1, self.rows):
            raise ValueError(
                f"A conditioning tensor of the latent's size has {value.shape[0]} rows, not {self.rows}. "
                "Give it one row, or one for each image of the batch."
            )
        if scale_of(self.canvas, tuple(value.shape[-2:])) is None:
            planes = value.reshape(1, -1, *value.shape[-2:])
            value = F.interpolate(planes, size=self.canvas).reshape(*value.shape[:-2], *self.canvas)
        return self.scaled(self._no_coarser_than_a_unit(value))

    def _no_coarser_than_a_unit(self, value: Tensor) -> Tensor:
        """Windows start on units, so what lies on a coarser grid is repeated for each unit in one of its cells."""
        times = self._coarser(value) // self.unit
        if times < 2:
            return value
        rows, columns = self.units
        return value.repeat_interleave(times, -2).repeat_interleave(times, -1)[..., :rows, :columns]

    def same_size(self, value: Any, least_rank: int = 4) -> Any:
        """Pictures to look at (references): those of the canvas' size lie on it and are cut, others are seen whole."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.same_size(entry) for entry in value)
        on_canvas = (
            isinstance(value, Tensor)
            and value.ndim >= least_rank
            and value.shape[-2:] == self.canvas
        )
        return self.latent(value) if on_canvas else self.whole(value)

    def by_shape(self, value: Any) -> Any:
        """An entry that nobody declared: cut where its last two dimensions are the canvas', else whole."""
        return self.same_size(value, least_rank=3)

    def patches(self, value: Tensor) -> Tensor:
        """A picture of its own resolution, which Stable Cascade's stage B spreads over patches of 2 x 2 cells."""
        grid = [length // 2 for length in self.canvas]
        return self.scaled(F.interpolate(value, size=grid, mode="bilinear", align_corners=True))

    def token_mask(self, value: Any) -> Any:
        """A mask between all tokens, text then canvas, [1 or rows, tokens, tokens]; one of text alone goes whole."""
        patches = self.units[0] * self.units[1]
        tokens = self.text_tokens + patches
        if not isinstance(value, Tensor) or value.ndim < 3 or value.shape[-2:] != (tokens, tokens):
            return self.whole(value)
        numbers = torch.arange(patches, device=value.device).view(self.units) + self.text_tokens
        text = torch.arange(self.text_tokens, device=value.device)
        cut = []
        for box in self.boxes:
            kept = torch.cat(
                [text, numbers[on_grid(box, self.canvas, self.units).slices].flatten()]
            )
            cut.append(value[..., kept, :][..., kept])
        if len(cut) == 1:
            return cut[0]
        return torch.stack(
            [one.expand(self.rows, *one.shape[1:]).unflatten(0, (self.conds, -1)) for one in cut],
            dim=1,
        ).flatten(0, 2)

    def looks_uncut(self, value: Any) -> bool:
        """Whether an undeclared entry has the canvas' size in a place that `by_shape` does not cut."""
        for tensor in _tensors(value):
            sizes = tuple(tensor.shape)
            inside = any(sizes[at : at + 2] == self.canvas for at in range(len(sizes) - 2))
            scale = (
                scale_of(self.canvas, sizes[-2:])
                if len(sizes) > 3 and min(sizes[-2:]) >= 8
                else None
            )
            scaled = scale not in (None, (1, 1))
            if inside or scaled or (isinstance(value, dict) and sizes[-2:] == self.canvas):
                return True
        return False


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)


Rule = Callable[[Cutter, Any], Any]


def refusal(what: str, advice: str) -> ValueError:
    return ValueError(
        f"Quadtree Diffusion cannot cut {what} into windows. {advice}, or set tile_size to at least the image's longer side "
        "and min_denoise = max_denoise."
    )


def _refused(what: str, advice: str) -> Rule:
    def refuse(_cutter: Cutter, value: Any) -> Any:
        if value is None or (isinstance(value, (list, tuple)) and not value):
            return value
        raise refusal(what, advice)

    return refuse


# Every entry of `c` that ComfyUI's models know, by what it is; others are cut by their shape.
RULES: dict[str, Rule] = {
    **dict.fromkeys(
        # Text, vectors and numbers; pictures that are not of the canvas.
        [
            "c_crossattn",
            "crossattn_controlnet",
            "y",
            "guidance",
            "text_embedding_mask",
            "encoder_hidden_states_llama3",
            "txt_byt5",
            "clip",
            "clip_text",
            "clip_text_pooled",
            "clip_img",
            "clip_fea",
            "clip_fea_ref",
            "time_context",
            "t5xxl_ids",
            "t5xxl_weights",
            "num_tokens",
            "num_video_frames",
            "frame_rate",
            "fps",
            "image_meta_size",
            "c_size",
            "c_ar",
            "sca",
            "crp",
            "siglip_feats",
            "ref_contexts",
            "ref_latents_method",
            "vace_strength",
            "face_pixel_values",
            "audio_embed",
            "guiding_frame_index",
            "degrade_sigma",
            "ofs",
            "image_only_indicator",
            "disable_time_r",
        ],
        Cutter.whole,
    ),
    **dict.fromkeys(
        [
            "c_concat",
            "image_cond",
            "denoise_mask",
            "time_dim_concat",
            "time_dim_replace",
            "vace_context",
            "camera_conditions",
            "control_video",
            "pose_latents",
            "sam_latents",
            "lq_latent",
            "condition",
        ],
        Cutter.latent,
    ),
    **dict.fromkeys(
        [
            "ref_latents",
            "ref_latent",
            "reference_latent",
            "context_latents",
            "reference_motion",
            "ref_mask_latents",
        ],
        Cutter.same_size,
    ),
    "effnet": Cutter.patches,
    "attention_mask": Cutter.token_mask,
    "keyframe_idxs": _refused("LTXV keyframes", "Remove the guide frames"),
    "guide_attention_entries": _refused("LTXV guides", "Remove the guide frames"),
    "vinput_mask": _refused("the tokens of HiDream-O1", "Use another model"),
}

# Patches that look at a picture of the whole image, by the class they belong to: what the user sees them as.
UNCUT_PATCHES = {
    "Gligen": "GLIGEN boxes",
    "DiffSynthCnetPatch": "a DiffSynth ControlNet",
    "ZImageControlPatch": "a Z-Image ControlNet",
    "WanUni3CCnetPatch": "a Uni3C ControlNet",
    "AnimaLLLitePatch": "an Anima LLLite",
    "SUPIRPatch": "SUPIR",
    "MultiTalkGetAttnMapPatch": "MultiTalk's masks",
    "KV_Attn_Input": "the Flux KV cache, which keeps what the first window saw,",
}
ONE_ROW_PATCHES = {
    "UsoStyleProjectorPatch"
}  # in core, too, they fail on more than one row at a time


def patch_names(options: dict[str, Any]) -> set[str]:
    """Classes of the patches in a model's transformer options."""
    lists = options.get("patches", {}).values()
    return {
        getattr(patch, "__qualname__", type(patch).__qualname__).split(".")[0]
        for patches in lists
        for patch in patches
    }


def _refuse_patches(options: dict[str, Any]) -> None:
    for name in UNCUT_PATCHES.keys() & patch_names(options):
        raise refusal(UNCUT_PATCHES[name], "Remove it")


def window_args(
    args: dict[str, Any], boxes: Sequence[Box], unit: int, warned: set[str]
) -> dict[str, Any]:
    """The arguments of a model-function wrapper for a batch of windows of one shape; nothing of `args` is changed.

    `unit` is the model's patch in cells. `c["control"]` is left out: it is the caller's. Keys that may lie on the canvas in a
    way that nobody declared are reported and added to `warned`.
    """
    noisy, c, conds = args["input"], args["c"], len(args["cond_or_uncond"])
    _refuse_patches(c.get("transformer_options", {}))
    text = c.get("c_crossattn")
    cutter = Cutter(
        noisy,
        boxes,
        conds,
        unit,
        text.shape[1] if isinstance(text, Tensor) and text.ndim > 1 else 0,
    )
    cut: dict[str, Any] = {}
    for key, value in c.items():
        if key == "control":
            continue
        unknown = key not in RULES and key != "transformer_options" and key not in warned
        if unknown and cutter.looks_uncut(value):
            warned.add(key)
            warn(
                "the conditioning entry %r may lie on the canvas, but nobody told how; every window gets it whole.",
                key,
            )
        cut[key] = RULES.get(key, Cutter.by_shape)(cutter, value)
    cut["transformer_options"] = dict(c.get("transformer_options", {}))  # models write into it
    return {
        **args,
        "input": stack_windows(noisy, boxes, conds),
        "timestep": cutter.whole(args["timestep"]),
        "c": cut,
    }


# Of what lies on the canvas, core narrows these for a conditioning area; the others stay at the canvas' size.
NARROWED_BY_CORE = {"c_concat", "image_cond"}
LEFT_BY_CORE = {key for key, rule in RULES.items() if rule is Cutter.latent} - NARROWED_BY_CORE | {
    "reference_latent"
}


def narrowed(c: dict[str, Any], canvas: Box, place: Box, unit: int) -> dict[str, Any]:
    """The entries of a call for a conditioning area at `place`, with what lies on the canvas cut to it; `c` if nothing is."""
    size, changed = (canvas.height, canvas.width), {}
    patches = ceil_div(canvas.height, unit) * ceil_div(canvas.width, unit)
    mask = c.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim > 2 and mask.shape[-1] == mask.shape[-2] > patches:
        raise refusal(
            "a style model with a strength (Redux) and a conditioning area", "Remove one of the two"
        )
    for key in LEFT_BY_CORE & c.keys():
        value = c[key]
        if (
            isinstance(value, Tensor)
            and value.ndim > 2
            and scale_of(size, tuple(value.shape[-2:])) is not None
        ):
            changed[key] = value[(..., *on_grid(place, size, tuple(value.shape[-2:])).slices)]
    return {**c, **changed} if changed else c


def select_conds(
    c: dict[str, Any], numbers: Sequence[int], conds: int, rows: int
) -> dict[str, Any]:
    """The entries of a model call for some of its conds, in this order."""

    def select(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(select(entry) for entry in value)
        if isinstance(value, dict):
            return {name: select(entry) for name, entry in value.items()}
        if hasattr(value, "select_conds"):
            return value.select_conds(numbers)
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != rows:
            return value
        return value.unflatten(0, (conds, -1))[list(numbers)].flatten(0, 1)

    options = dict(c.get("transformer_options", {}))
    for key in ("cond_or_uncond", "uuids"):
        if key in options:
            options[key] = [options[key][number] for number in numbers]
    return {key: select(value) for key, value in c.items() if key != "transformer_options"} | {
        "transformer_options": options
    }
