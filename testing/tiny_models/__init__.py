"""Tiny random-weight models of real architectures on the real ComfyUI (CPU, float32).

    entry = ZOO["flux"]()
    samples = sample(entry, entry.latent(), steps=4, cfg=3.0, denoise=0.6)

They are built with ComfyUI's own supported_models classes, so latent format, model sampling and
conditioning are the real ones; only the sizes are tiny. Such models are chaotic: compare runs of
the same mathematics, not looks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from .building import Entry
from .images import (
    chroma_radiance,
    hidream,
    hidream_e1,
    hidream_o1,
    hunyuan_image21,
    kandinsky5_image,
    pid,
    pixeldit,
    z_image_pixel,
)
from .transformers import (
    auraflow,
    boogu,
    chroma,
    ernie_image,
    flux,
    flux2,
    flux_fill,
    flux_guidance,
    flux_kontext,
    flux_redux,
    flux_schnell,
    hunyuan_dit,
    ideogram4,
    joy_image,
    krea2,
    lens,
    longcat_image,
    lumina2,
    mage_flow,
    omnigen2,
    pixart_alpha,
    pixart_sigma,
    qwen_edit,
    qwen_image,
    sd3,
    z_image,
    z_image_omni,
)
from .unets import (
    cascade_b,
    cascade_c,
    sd2_v,
    sd15,
    sd15_inpaint,
    sd15_ip2p,
    sd21_unclip,
    sd_x4_upscaler,
    sdxl,
    sdxl_refiner,
    svd,
)
from .video import (
    anima,
    cogvideox,
    cosmos,
    cosmos_predict2,
    cosmos_predict2_i2v,
    hunyuan_video,
    hunyuan_video15,
    hunyuan_video15_sr,
    hunyuan_video_i2v,
    kandinsky5_video,
    ltx2,
    ltxv,
    mochi,
    seedvr2,
    wan21_camera,
    wan21_context,
    wan21_fun_control,
    wan21_humo,
    wan21_i2v,
    wan21_reference,
    wan21_scail,
    wan21_t2v,
    wan21_vace,
    wan22_5b,
    wan22_animate,
    wan22_s2v,
)

VIDEO_FAMILIES = (
    *(wan21_t2v, wan21_i2v, wan21_vace, wan21_reference, wan21_context),
    *(wan21_fun_control, wan21_camera, wan21_scail, wan21_humo, wan22_s2v, wan22_animate, wan22_5b),
    *(hunyuan_video, hunyuan_video_i2v, hunyuan_video15, hunyuan_video15_sr, kandinsky5_video),
    *(ltxv, ltx2, mochi, cogvideox),
    *(cosmos, cosmos_predict2, cosmos_predict2_i2v, anima, seedvr2),
)
FAMILIES = (
    *(sd15, sd15_inpaint, sd15_ip2p, sd2_v, sd21_unclip, sd_x4_upscaler, sdxl, sdxl_refiner, svd),
    *(cascade_b, cascade_c),
    *(sd3, auraflow, pixart_alpha, pixart_sigma, hunyuan_dit),
    *(
        flux,
        flux_schnell,
        flux_guidance,
        flux_kontext,
        flux_fill,
        flux_redux,
        flux2,
        longcat_image,
        chroma,
    ),
    *(lumina2, z_image, z_image_omni, omnigen2, boogu),
    *(qwen_image, qwen_edit, joy_image, krea2),
    *(mage_flow, lens, ideogram4, ernie_image),
    *(hidream, hidream_e1, kandinsky5_image, hunyuan_image21),
    *(chroma_radiance, pixeldit, pid, z_image_pixel, hidream_o1),
    *VIDEO_FAMILIES,
)
ZOO: dict[str, Callable[[], Entry]] = {make.__name__: make for make in FAMILIES}
VIDEOS = [make.__name__ for make in VIDEO_FAMILIES]


@cache
def entry_of(name: str) -> Entry:
    """One entry for all tests of a module; conftest.py frees them after it."""
    return ZOO[name]()
