"""From picture to picture through core's own nodes: kept regions stay, in one stage and in two.

The Tiny Refiner refines photos that it was not trained on; latents of a second stage come from the
nodes that people use for it.
"""

import pytest
import torch
from quadtree_pack.nodes import (
    QuadtreeComposite,
    QuadtreeDiffusion,
    QuadtreeVAEDecode,
    QuadtreeVisualizer,
)
from quadtree_pack.testing.node_values import DIFFUSION, VISUALIZER
from quadtree_pack.testing.photos import sample_photo
from quadtree_pack.testing.refiner import load as refiner

import nodes

TREE = {
    **VISUALIZER,
    "content_threshold": 30.0,
    "min_tile_size": 32,
    "max_tile_size": 128,
    "min_denoise": 0.0,
    "max_denoise": 1.0,
}
RUN = {"seed": 7, "steps": 6, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
PHOTOS = {"coffee": 70.0, "chelsea": 50.0, "rocket": 20.0}  # thresholds that keep a third to a half


@pytest.fixture(scope="module", autouse=True)
def the_refiner_is_freed():
    yield
    refiner.cache_clear()


def photo(name, height=256, width=384):
    """[1, height, width, 3] out of a photo's middle."""
    pixels = sample_photo(name)
    y, x = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[None, y : y + height, x : x + width].contiguous()


def tree_of_image(image, threshold):
    return QuadtreeVisualizer.execute(image, **{**TREE, "content_threshold": threshold}).args[1]


def kept_by(tree, image):
    """px [H, W] that a tree keeps."""
    kept = tree[0].denoise_map(*image.shape[1:3]) == 0
    assert 0.05 < kept.float().mean() < 0.95
    return kept


def diffused(model, tree, **changes):
    return QuadtreeDiffusion.execute(
        model, tree, **{**DIFFUSION, "tile_size": 256, **changes}
    ).args[0]


def sampled(model, cond, latent, denoise=0.5):
    return nodes.KSampler().sample(model, *RUN.values(), cond, cond, latent, denoise)[0]


def upscaled(image, scale):
    return nodes.NODE_CLASS_MAPPINGS["ImageScaleBy"]().upscale(image, "bicubic", scale)[0]


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("match", [False, True], ids=["as decoded", "colours matched"])
def test_kept_px_are_the_photo_s_own_after_encode_sample_decode_and_composite(name, match):
    model, vae, cond = refiner()
    image = photo(name)
    tree = tree_of_image(image, PHOTOS[name])
    latent = nodes.VAEEncode().encode(vae, image)[0]
    result = sampled(diffused(model, tree), cond, latent)
    decoded = nodes.VAEDecode().decode(vae, result)[0]
    finished = QuadtreeComposite.execute(image, decoded, tree, 32, match).args[0]
    kept = kept_by(tree, image)
    assert not torch.equal(decoded[0, kept], image[0, kept]), "the VAE alone changes kept px"
    assert torch.equal(finished[0, kept], image[0, kept])
    assert (finished - image)[0, ~kept].abs().mean() > 0.005


@pytest.mark.parametrize("scale", [1.0, 2.0], ids=["tree of the image", "tree of a larger copy"])
def test_an_image_of_no_whole_cells_keeps_the_px_of_its_crop(scale):
    """Both nodes put the same px back where the tree kept them.

    VAE Encode takes the middle 592 x 392 of 599 x 397 px.
    """
    model, vae, cond = refiner()
    image = photo("coffee", 397, 599)
    tree = tree_of_image(upscaled(image, scale), PHOTOS["coffee"])
    result = sampled(diffused(model, tree), cond, nodes.VAEEncode().encode(vae, image)[0])
    decoded = nodes.VAEDecode().decode(vae, result)[0]
    finished = QuadtreeComposite.execute(image, decoded, tree, 32).args[0]
    assert torch.equal(finished, QuadtreeVAEDecode.execute(result, vae, tree, image, 32).args[0])
    inner = (slice(2, 2 + 392), slice(3, 3 + 592))
    kept, cropped = kept_by(tree, image)[inner], image[0][inner]
    assert torch.equal(finished[0, kept], cropped[kept]) and not torch.equal(
        finished[0, ~kept], cropped[~kept]
    )
    shifts = {
        (y, x): (decoded[0] - image[0, y : y + 392, x : x + 592]).abs().mean()
        for y in range(6)
        for x in range(8)
    }
    assert min(shifts, key=shifts.get) == (2, 3), "the crop lies where the decoded image lies"


@pytest.mark.parametrize("name", PHOTOS)
def test_the_border_of_a_kept_region_does_not_show(name):
    """Return the gradient of the change where kept px meet free ones, over that elsewhere.

    Elsewhere is the free part; 1 = invisible.
    """
    model, vae, cond = refiner()
    small = photo(name)
    image, tree = upscaled(small, 2.0), tree_of_image(small, PHOTOS[name])
    latent = nodes.VAEEncode().encode(vae, image)[0]
    decoded = nodes.VAEDecode().decode(vae, sampled(diffused(model, tree), cond, latent))[0]
    kept = kept_by(tree, image)

    def index(feather):
        change = (QuadtreeComposite.execute(image, decoded, tree, feather).args[0] - image)[0]
        at_borders, elsewhere = [], []
        for axis in (0, 1):
            gradient = change.diff(dim=axis).abs().mean(-1)
            border = kept.diff(dim=axis)
            inside = ~kept.narrow(axis, 0, kept.shape[axis] - 1) & ~border
            at_borders.append(gradient[border])
            elsewhere.append(gradient[inside])
        return float(torch.cat(at_borders).mean() / torch.cat(elsewhere).mean())

    assert index(32) <= 1.03
    assert index(0) > index(32)


@pytest.mark.parametrize("upscale", ["nearest-exact", "bilinear", "bislerp"])
def test_after_a_latent_upscale_the_small_image_s_tree_keeps_the_upscaled_latent(upscale):
    model, vae, cond = refiner()
    small = photo("coffee")
    tree = tree_of_image(small, PHOTOS["coffee"])
    latent = nodes.LatentUpscaleBy().upscale(nodes.VAEEncode().encode(vae, small)[0], upscale, 2.0)[
        0
    ]
    result = sampled(diffused(model, tree), cond, latent)["samples"]
    held = tree[0].denoise_map(*result.shape[-2:]) == 0
    assert held.any() and torch.equal(result[..., held], latent["samples"][..., held])
    assert not torch.equal(result[..., ~held], latent["samples"][..., ~held])


def test_hires_fix_keeps_the_first_picture_s_calm_regions_on_the_large_one():
    """Text to image, decode, upscale, encode, refine by the small picture's tree, composite."""
    model, vae, cond = refiner()
    empty = {"samples": torch.zeros(1, 32, 32, 48)}
    first = nodes.VAEDecode().decode(vae, sampled(model, cond, empty, 1.0))[0]
    small = first.clone()
    small[:, :, 192:] = 0.5  # the refiner's own dreams are busy everywhere
    tree, large = tree_of_image(small, 10.0), upscaled(small, 2.0)
    latent = nodes.VAEEncode().encode(vae, large)[0]
    decoded = nodes.VAEDecode().decode(vae, sampled(diffused(model, tree), cond, latent))[0]
    finished = QuadtreeComposite.execute(large, decoded, tree, 32).args[0]
    kept = kept_by(tree, large)
    assert torch.equal(finished[0, kept], large[0, kept]) and not torch.equal(
        finished[0, ~kept], large[0, ~kept]
    )


def advanced(model, cond, latent, start, end, *, noise, leftover):
    flags = {True: "enable", False: "disable"}
    stage = nodes.KSamplerAdvanced()
    return stage.sample(
        model, flags[noise], *RUN.values(), cond, cond, latent, start, end, flags[leftover]
    )[0]


@pytest.mark.parametrize("first_patched", [False, True])
def test_a_second_ksampler_advanced_stage_keeps_what_clean_latent_says(first_patched):
    model, vae, cond = refiner()
    image = photo("coffee")
    tree = tree_of_image(image, PHOTOS["coffee"])
    clean = nodes.VAEEncode().encode(vae, image)[0]
    first = diffused(model, tree) if first_patched else model
    noisy = advanced(first, cond, clean, 0, 4, noise=True, leftover=True)
    held = tree[0].denoise_map(*clean["samples"].shape[-2:]) == 0
    assert not torch.equal(noisy["samples"][..., held], clean["samples"][..., held]), "still noisy"
    for connected in (True, False):
        second = diffused(model, tree, **({"clean_latent": clean} if connected else {}))
        result = advanced(second, cond, noisy, 4, 6, noise=False, leftover=False)["samples"]
        assert torch.equal(result[..., held], clean["samples"][..., held]) == connected
        assert result.isfinite().all()


def test_a_third_stage_goes_on_where_the_second_stopped():
    """The same run in two parts: held cells do not differ, and cells are free at the same steps."""
    model, vae, cond = refiner()
    image = photo("rocket")
    tree = tree_of_image(image, PHOTOS["rocket"])
    clean = nodes.VAEEncode().encode(vae, image)[0]
    noisy = advanced(diffused(model, tree), cond, clean, 2, 4, noise=True, leftover=True)
    again = diffused(model, tree, clean_latent=clean)
    middle = advanced(again, cond, noisy, 4, 5, noise=False, leftover=True)
    result = advanced(again, cond, middle, 5, 6, noise=False, leftover=False)["samples"]
    held = tree[0].denoise_map(*result.shape[-2:]) == 0
    assert torch.equal(result[..., held], clean["samples"][..., held])
