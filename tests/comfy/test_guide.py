"""What the guide says of the mathematics and of noise schedules, measured on the real ComfyUI."""

import comfy.samplers
import pytest
from quadtree_pack.testing.documents import GUIDE, rows
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample

# What a model function wrapper may return, by its name in the guide; both are latents in the model's space.
IDEAS = {
    "clean": lambda clean, noisy: clean,
    "clean - noisy": lambda clean, noisy: clean - noisy,
    "0": lambda clean, noisy: 0 * noisy,
    "noisy": lambda clean, noisy: noisy,
}
TOLD = {idea.strip("`"): float(error) for idea, _, error in rows(GUIDE, "returned in place of D")}


@pytest.mark.parametrize("idea", IDEAS)
def test_the_guide_tells_how_far_from_the_original_an_idea_ends(idea):
    entry = entry_of("flux")
    latent = entry.latent(16, 24)
    clean = entry.model.model.process_latent_in(latent)
    model = entry.model.clone()
    model.set_model_unet_function_wrapper(
        lambda _apply_model, args: IDEAS[idea](clean, args["input"])
    )
    result = entry.model.model.process_latent_in(
        sample(entry, latent, model=model, steps=6, denoise=0.55)
    )
    error = float((result - clean).abs().max())
    assert f"{float(clean.abs().max()):.2f}" in GUIDE
    if idea == "clean":
        assert error < 1e-6 and TOLD[idea] < 1e-6
    else:
        assert error == pytest.approx(TOLD[idea], abs=0.01) and error > 0.3


def test_no_idea_is_told_that_is_not_measured():
    assert TOLD.keys() == IDEAS.keys()


FAMILIES = {
    "SD1.5": "sd15",
    "SDXL": "sdxl",
    "SD3": "sd3",
    "Z-Image": "z_image",
    "Flux": "flux",
    "Chroma": "chroma",
    "Qwen-Image": "qwen_image",
    "Flux schnell": "flux_schnell",
    "Flux.2": "flux2",
    "Wan 2.1": "wan21_t2v",
}
SHARES = [
    (family, cells[0].rpartition(", ")[2], denoise, float(share))
    for cells in rows(GUIDE, "model, scheduler")
    for family in cells[0].rpartition(", ")[0].replace(" and ", ", ").split(", ")
    for denoise, share in zip((0.3, 0.5, 0.7), cells[1:], strict=True)
]


@pytest.mark.parametrize(("family", "scheduler", "denoise", "share"), SHARES)
def test_the_share_of_noise_at_which_a_run_begins_is_the_one_in_the_guide(
    family, scheduler, denoise, share
):
    """Of picture + sigma x noise for SD1.5 and SDXL; of (1 - sigma) picture + sigma noise for the others."""
    name = FAMILIES[family]
    sigma = float(
        comfy.samplers.KSampler(
            entry_of(name).model, 20, "cpu", "euler", scheduler, denoise
        ).sigmas[0]
    )
    assert (sigma / (1 + sigma) if name in ("sd15", "sdxl") else sigma) == pytest.approx(
        share, abs=0.006
    )
