"""The nodes as ComfyUI sees them: schema, boundary checks, pictures."""

import dataclasses
import logging
import re

import pytest
import torch
from comfy_api.latest import io
from quadtree_pack.image import composite as composite_module
from quadtree_pack.nodes import (
    QuadtreeCluster,
    QuadtreeComposite,
    QuadtreeCrops,
    QuadtreeDiffusion,
    QuadtreeInfo,
    QuadtreePrompts,
    QuadtreeVAEDecode,
    QuadtreeVisualizer,
)
from quadtree_pack.quadtree import FrameTrees, Quadtree
from quadtree_pack.sampling.cost import Sampling, estimate_cost
from quadtree_pack.sampling.model import TYPICAL, Settings
from quadtree_pack.testing.node_values import DIFFUSION, VISUALIZER
from quadtree_pack.testing.photos import sample_photo
from quadtree_pack.testing.seen_through import THROUGH
from quadtree_pack.testing.tiny_models import ZOO
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tree.detail import BlockSums
from quadtree_pack.ui.building import build_tree
from quadtree_pack.ui.passing import IMAGE_INPUTS


def half_busy(batch=1, height=256, width=320):
    image = torch.full((batch, height, width, 3), 0.5)
    image[:, :, width // 2 :] = torch.rand(
        batch, height, width - width // 2, 3, generator=torch.Generator().manual_seed(0)
    )
    return image


def visualize(image=None, **changes):
    """The image, the trees and the denoise map that the node returns."""
    return QuadtreeVisualizer.execute(
        half_busy() if image is None else image, **{**VISUALIZER, **changes}
    ).args[:3]


def diffuse(model, quadtree, **changes):
    return QuadtreeDiffusion.execute(model, quadtree, **{**DIFFUSION, **changes}).args[0]


def test_ids_inputs_and_outputs_are_the_public_ones():
    visualizer, diffusion = QuadtreeVisualizer.define_schema(), QuadtreeDiffusion.define_schema()
    assert (visualizer.node_id, diffusion.node_id) == ("QuadtreeVisualizer", "QuadtreeDiffusion")
    later = ["mask", "regions", "denoise_by", "invert", "mask_mode", "detail_metric"]
    later += ["cost_budget", "coverage", "batch", "preset"]
    assert [entry.id for entry in visualizer.inputs] == ["image", *VISUALIZER, *later]
    outputs = ["image", "quadtree", "denoise_map", "painted"]
    assert [entry.id for entry in visualizer.outputs] == outputs
    assert [entry.id for entry in diffusion.inputs] == [
        "model",
        "quadtree",
        *DIFFUSION,
        "clean_latent",
        "all_sigmas",
        "references",
    ]
    assert {
        entry.id: entry.default for entry in diffusion.inputs if entry.id in DIFFUSION
    } == DIFFUSION


def test_an_untouched_visualizer_builds_the_automatic_tree():
    schema = QuadtreeVisualizer.define_schema()
    untouched = {entry.id: entry.default for entry in schema.inputs if hasattr(entry, "default")}
    image = half_busy()
    _, trees, *_ = QuadtreeVisualizer.execute(image, **untouched).args
    tree, _ = build_tree(BlockSums.of_image(image[0], octaves=True))
    assert trees == (tree,)
    assert {leaf.denoise for leaf in tree.leaves if leaf.x1 <= 128} == {0.0}


def test_an_alpha_channel_is_left_out_in_words(caplog):
    image = torch.cat([half_busy(), torch.ones(1, 256, 320, 1)], -1)
    with caplog.at_level(logging.INFO):
        _, trees, _ = visualize(image)
        (composed,) = QuadtreeComposite.execute(image, image[..., :3], trees, 0).args
    assert composed.shape[-1] == 3
    assert caplog.text.count("alpha channel") == 2


NODES = [
    QuadtreeVisualizer,
    QuadtreeDiffusion,
    QuadtreeComposite,
    QuadtreeInfo,
    QuadtreeVAEDecode,
    QuadtreeCluster,
    QuadtreeCrops,
    QuadtreePrompts,
]
COUNTS = ("tile_batch_size", "steps", "workers", "max_crops")  # the integers that are no lengths


@pytest.mark.parametrize("node", NODES)
def test_every_input_has_a_tooltip_and_lengths_name_their_unit(node):
    for entry in node.define_schema().inputs:
        assert entry.tooltip
        if isinstance(entry, io.Int.Input) and entry.id not in COUNTS:
            assert "px" in entry.tooltip


def test_the_visualizer_gives_a_tree_a_map_and_a_picture_per_image():
    pictures, trees, maps = visualize(half_busy(batch=2))
    assert pictures.shape == (2, 256, 320, 3) and maps.shape == (2, 256, 320)
    assert len(trees) == 2 and all(isinstance(tree, Quadtree) for tree in trees)
    assert maps[:, :, :128].eq(0).all() and maps[:, :, 200:].gt(0.9).all()
    assert pictures.min() >= 0 and pictures.max() <= 1


@pytest.mark.parametrize(
    ("batch", "trees", "maps"),
    [
        ("images", 5, (5, 256, 320)),
        ("clip", 1, (1, 256, 320)),
        ("clip maximum", 1, (1, 256, 320)),
        ("clip per frame", 5, (5, 32, 40)),
    ],
)
def test_the_visualizer_says_what_a_batch_is(batch, trees, maps):
    pictures, found, masks = visualize(half_busy(batch=5), batch=batch)
    assert len(found) == trees and masks.shape == maps and pictures.shape == (5, 256, 320, 3)
    assert isinstance(found, FrameTrees) == (batch == "clip per frame")


def test_the_overlay_of_a_long_clip_shows_some_frames_and_small():
    clip = half_busy().repeat(20, 1, 8, 1)
    pictures = visualize(clip, batch="clip")[0]
    assert pictures.shape == (8, 102, 1024, 3)


def test_with_a_budget_each_image_gets_its_own_threshold_and_the_log_says_which(caplog):
    noise = torch.rand(1, 1024, 1280, 3, generator=torch.Generator().manual_seed(0))
    image = torch.cat([noise, noise / 2]) * torch.linspace(0, 1, 1280)[:, None]
    changes = {"max_tile_size": 128, "detail_metric": "both", "min_denoise": 0.0}
    with caplog.at_level("INFO"):
        trees = visualize(image, cost_budget=0.3, **changes)[1]
    found = [
        float(threshold)
        for threshold in re.findall(r"content_threshold (\S+) for about", caplog.text)
    ]
    assert len(found) == 2 and found[0] != found[1]
    for number, (tree, threshold) in enumerate(zip(trees, found, strict=True)):
        assert (
            tree
            == visualize(image[number : number + 1], content_threshold=threshold, **changes)[1][0]
        )


def test_kept_regions_are_bluer_and_regenerated_ones_redder_than_the_image():
    image = half_busy()
    picture = visualize(image, line_thickness=0)[0]
    change = (picture - image)[0]
    assert (change[:, :128, 2] > change[:, :128, 0]).all()
    assert (change[:, 200:, 0].mean() > change[:, 200:, 2].mean()) and not torch.equal(
        picture, visualize(image)[0]
    )


def test_a_mask_keeps_what_it_does_not_cover():
    mask = torch.zeros(1, 64, 80)
    mask[..., 60:] = 1
    _, trees, maps = visualize(mask=mask)
    assert (
        maps[..., :240].eq(0).all() and maps[..., 240:].gt(0.9).all() and trees[0].mask is not None
    )


def test_core_s_differential_diffusion_takes_the_map_as_it_is():
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    entry = ZOO["flux"]()
    latent = entry.latent()
    model = DifferentialDiffusion.execute(entry.model).args[0]
    samples = sample(entry, latent, model=model, noise_mask=visualize()[2], denoise=0.6)
    held = torch.nn.functional.max_pool2d(visualize()[2][None], 8)[0, 0] == 0
    assert (
        (samples - latent)[..., held].abs().max()
        < 0.1
        < (samples - latent)[..., ~held].abs().mean()
    )


def test_the_two_nodes_together_keep_the_calm_half():
    entry = ZOO["flux"]()
    latent = entry.latent()
    model = diffuse(entry.model, visualize()[1])
    samples = sample(entry, latent, model=model)
    assert torch.equal(samples[..., :16], latent[..., :16])
    assert (samples[..., 24:] != latent[..., 24:]).float().mean() > 0.99


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_denoise": 0.9, "max_denoise": 0.1}, "min_denoise is 0.9 and max_denoise 0.1"),
        ({"min_denoise": float("nan")}, "min_denoise is nan"),
        ({"min_denoise": -7}, "min_denoise is -7"),
        ({"content_threshold": float("inf")}, "content_threshold is inf"),
        ({"min_tile_size": 128}, "min_tile_size is 128 px and max_tile_size 64 px"),
        ({"min_tile_size": "64"}, "min_tile_size is '64'"),
        ({"image": torch.zeros(0, 8, 8, 3)}, "image has shape"),
        ({"image": torch.zeros(1, 0, 8, 3)}, "image has shape"),
        ({"image": torch.full((1, 64, 64, 3), float("nan"))}, "image holds NaN"),
        ({"image": torch.zeros(1, 8, 8, 2)}, "image has shape"),
        (
            {"image": torch.zeros(1, 8, 8, 3, dtype=torch.uint8)},
            r"image is torch\.uint8, not a tensor of floating point numbers",
        ),
        ({"image": "photo.png"}, "image is str"),
        ({"mask": torch.zeros(3, 8, 8)}, "mask has shape .* for 1 images"),
        ({"mask": torch.zeros(1, 8, 8, dtype=torch.bool)}, r"mask is torch\.bool"),
        ({"mask": "all"}, "mask is str"),
        (
            {"max_tile_size": 10**400},
            "max_tile_size is a number of 1329 bits; it must be a whole number from 8 to",
        ),
        ({"invert": "x" * 10**6}, "invert is 'xxx.{,200}xxx'; it must be true or false"),
    ],
)
def test_the_visualizer_refuses_what_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        visualize(**changes)


def test_every_input_of_quadtree_diffusion_reaches_the_patch():
    model = ZOO["flux"]().model
    latent = {"samples": torch.ones(1, 16, 32, 40)}
    values = {
        "method": "SpotDiffusion",
        "tile_size": 512,
        "tile_overlap": 96,
        "tile_batch_size": 7,
        "schedule": "ramp",
        "feather": 48,
        "skip_diffusion_below": 24,
        "references": "whole",
    }
    patch = diffuse(model, visualize()[1], clean_latent=latent, **values).model_options[
        "model_function_wrapper"
    ]
    assert list(dataclasses.asdict(patch.inputs.settings).values()) == list(values.values())
    assert patch.inputs.clean_latent is latent["samples"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quadtree": "a tree"}, "quadtree is str"),
        ({"quadtree": ()}, "quadtree is tuple"),
        ({"method": "Magic"}, "method is 'Magic'; it must be one of Shifted Feather"),
        ({"schedule": None}, "schedule is None"),
        ({"references": "some"}, "references is 'some'; it must be one of automatic"),
        ({"tile_size": -8}, "tile_size is -8"),
        ({"tile_overlap": float("nan")}, "tile_overlap is nan"),
        ({"tile_batch_size": -1}, "tile_batch_size is -1"),
        ({"feather": 1.5}, "feather is 1.5"),
        ({"model": "flux"}, "model is str, not a model"),
        ({"clean_latent": torch.zeros(1, 16, 8, 8)}, "clean_latent is Tensor, not a latent"),
        ({"clean_latent": {}}, "clean_latent is NoneType"),
        ({"all_sigmas": [1.0, 0.0]}, "all_sigmas is list"),
        ({"all_sigmas": torch.ones(1)}, r"all_sigmas has shape \(1,\); it must hold two or more"),
        ({"all_sigmas": torch.tensor([0.0, 1.0])}, "The sigmas of all_sigmas rise"),
        ({"clean_latent": {"samples": torch.zeros(0, 16, 8, 8)}}, "clean_latent has shape"),
        (
            {"clean_latent": {"samples": torch.full((1, 16, 8, 8), float("nan"))}},
            "clean_latent holds NaN",
        ),
    ],
)
def test_quadtree_diffusion_refuses_what_cannot_be(changes, words):
    entry = ZOO["flux"]()
    with pytest.raises(ValueError, match=words):
        diffuse(**{"model": entry.model, "quadtree": visualize()[1], **changes})


def test_the_overlay_of_an_image_in_several_bands_is_one_picture():
    image = half_busy(height=600, width=64)
    drawn, (tree,), (denoise,) = visualize(image)
    assert drawn.shape == (1, 600, 64, 3)
    borders = {edge for leaf in tree.leaves for edge in (leaf.y0,)}
    lines = (visualize(image, line_thickness=0)[0] != drawn)[0].any(-1).all(1)
    assert {int(row) for row in torch.where(lines)[0]} >= borders & set(range(0, 600, 64))
    assert denoise.shape == (600, 64)


def test_what_is_painted_to_be_refined_is_a_mask_for_a_prompt(caplog):
    strokes = '["full", 0, 0, 0.5, 0.5], ["value", 0.5, 0, 1, 0.5, 0.3], ["keep", 0, 0.5, 1, 1]'
    painted = f'{{"size": [320, 256], "regions": [{strokes}]}}'
    mask = QuadtreeVisualizer.execute(half_busy(batch=2), **VISUALIZER, regions=painted).args[3]
    assert mask.shape == (1, 256, 320)
    assert mask[0, :128].eq(1).all() and mask[0, 128:].eq(0).all()
    painted = painted.replace("[320, 256]", "[256, 320]")
    mask = QuadtreeVisualizer.execute(half_busy(), **VISUALIZER, regions=painted).args[3]
    assert mask.eq(0).all() and "do not fit" in caplog.text


def test_painted_regions_are_kept_or_fully_regenerated(caplog):
    strokes = '["keep", 0, 0, 1, 1], ["full", 0.25, 0.25, 0.5, 0.5], ["auto", 0, 0, 0.1, 0.125]'
    painted = f'{{"size": [320, 256], "regions": [{strokes}]}}'
    trees, maps = visualize(half_busy(), regions=painted)[1:]
    assert maps[0, 64:128, 80:160].eq(1).float().mean() > 0.6 and maps[0, 160:].eq(0).all()
    plain = visualize(half_busy())[2]
    assert 0 < maps[0, :32, :32].min() <= maps[0, :32, :32].max() < 1 and isinstance(
        trees[0], Quadtree
    )
    other = visualize(half_busy(), regions=painted.replace("[320, 256]", "[256, 320]"))[2]
    assert torch.equal(other, plain) and "do not fit" in caplog.text
    with pytest.raises(ValueError, match="is not a region"):
        visualize(half_busy(), regions='[["keep", 0.5, 0, 0.4, 1]]')


# ---- Quadtree Composite and Quadtree Info


def two_images(height=256, width=320):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(1, height, width, 3, generator=generator), torch.rand(
        1, height, width, 3, generator=generator
    )


def composed(original, refined, trees, feather=32, **options):
    return QuadtreeComposite.execute(original, refined, trees, feather, **options).args[0]


@pytest.mark.parametrize("feather", [0, 2, 32, 200])
def test_kept_px_are_the_original_s_to_the_bit_and_free_ones_become_the_refined(feather):
    trees, maps = visualize(half_busy())[1:]
    original, refined = two_images()
    result = composed(original, refined, trees, feather)
    kept = maps[0] == 0
    assert kept.any() and torch.equal(result[0, kept], original[0, kept])
    far = torch.zeros_like(kept)
    far[:, 128 + feather :] = ~kept[:, 128 + feather :]
    assert torch.equal(result[0, far], refined[0, far])
    if feather == 0:
        assert torch.equal(result[0, ~kept], refined[0, ~kept])


def test_the_refined_image_fades_in_without_a_step():
    trees, maps = visualize(half_busy())[1:]
    black, white = torch.zeros(1, 256, 320, 3), torch.ones(1, 256, 320, 3)
    share = composed(black, white, trees, 32)[0, :, :, 0]
    assert (
        share.diff(dim=1).abs().max() < 0.15
        and composed(black, white, trees, 0)[0].diff(dim=1).max() == 1
    )
    assert share[maps[0] == 0].eq(0).all() and share.max() == 1


@pytest.mark.parametrize("match", [False, True])
def test_a_large_composite_is_the_same_in_bands(monkeypatch, match):
    trees = visualize(half_busy())[1]
    original, refined = two_images()
    whole = composed(original, refined, trees, color_match=match)
    monkeypatch.setattr(composite_module, "BAND_ROWS", 40)
    assert torch.allclose(
        composed(original, refined, trees, color_match=match),
        whole,
        rtol=0,
        atol=1e-6 if match else 0,
    )


def cast_photo():
    """Return a photo, its tree with kept parts, and the photo with the colour cast of a VAE."""
    photo = sample_photo("coffee")[None]
    trees = visualize(
        photo, max_tile_size=128, min_tile_size=32, min_denoise=0.0, content_threshold=40.0
    )[1]
    cast = photo * torch.tensor([0.93, 1.0, 0.95]) + torch.tensor([0.0, 0.02, 0.05])
    return photo, trees, cast.clamp(0, 1)


def border_step(result, photo, trees):
    """Mean step of the change where a kept px meets a free one, over that elsewhere."""
    kept = trees[0].denoise_map(*photo.shape[1:3]) == 0
    assert 0.1 < kept.float().mean() < 0.9
    step = (result - photo)[0].diff(dim=1).abs().mean(-1)
    border = kept.diff(dim=1)
    return float(step[border].mean() / step[~border].mean().clamp_min(1e-4))


def test_matched_a_colour_cast_is_gone_and_no_border_shows():
    photo, trees, cast = cast_photo()
    plain, matched = (composed(photo, cast, trees, 0, color_match=match) for match in (False, True))
    kept = trees[0].denoise_map(*photo.shape[1:3]) == 0
    assert torch.equal(matched[0, kept], photo[0, kept])
    assert (matched - photo).abs().mean() < 0.25 * (plain - photo).abs().mean()
    assert border_step(plain, photo, trees) > 20 and border_step(matched, photo, trees) < 3


def test_matching_leaves_new_fine_detail_and_an_image_without_a_cast_alone():
    photo, trees, cast = cast_photo()
    assert (composed(photo, photo, trees, color_match=True) - photo).abs().max() < 1e-4
    texture = 0.04 * torch.tensor([1.0, -1.0]).repeat(400, 300)[None, :, :, None] * torch.ones(3)
    texture[:, ::2] *= -1
    matched = composed(photo, cast + texture, trees, 0, color_match=True)
    free = trees[0].denoise_map(*photo.shape[1:3]) > 0
    found = (matched - composed(photo, cast, trees, 0, color_match=True))[0, free].abs().mean()
    assert 0.85 < found / texture.abs().mean() < 1.15


def test_a_tree_of_the_small_image_composes_the_large_one_and_batches_share_what_is_single():
    trees = visualize(half_busy(batch=2))[1]
    original, refined = two_images(512, 640)
    result = composed(original, torch.cat([refined, refined]), trees)
    assert result.shape == (2, 512, 640, 3) and torch.equal(
        result[0, :, :200], original[0, :, :200]
    )
    with pytest.raises(ValueError, match="3 original images, 2 refined ones and 2 trees"):
        composed(torch.cat([original] * 3), torch.cat([refined] * 2), trees)


@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (4, 1), (3, 4)])
def test_gray_and_transparent_images_compose_as_colours(channels):
    trees, maps = visualize(half_busy())[1:]
    pair = [
        image[..., :1] if some == 1 else image
        for image, some in zip(two_images(), channels, strict=True)
    ]
    padded = [
        torch.cat([image, image[..., :1]], -1) if some == 4 else image
        for image, some in zip(pair, channels, strict=True)
    ]
    result, colours = (
        composed(*padded, trees),
        composed(*(image.expand(-1, -1, -1, 3) for image in pair), trees),
    )
    assert result.shape == (1, 256, 320, 3) and torch.equal(result, colours) and maps.eq(0).any()


@pytest.mark.parametrize(
    "kinds", [(torch.float16, torch.float32), (torch.float32, torch.bfloat16), (torch.float64,) * 2]
)
@pytest.mark.parametrize("match", [False, True])
def test_images_of_two_precisions_compose_in_the_original_s(kinds, match):
    trees, maps = visualize(half_busy())[1:]
    original, refined = (image.to(kind) for image, kind in zip(two_images(), kinds, strict=True))
    result = QuadtreeComposite.execute(original, refined, trees, 32, match).args[0]
    assert result.dtype == original.dtype and torch.equal(result[maps == 0], original[maps == 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["original", "refined"])
def test_an_image_with_nan_is_not_composed(which, value):
    images = dict(zip(("original", "refined"), two_images(), strict=True))
    images[which][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=f"{which} image holds NaN"):
        composed(**images, trees=visualize(half_busy())[1])


def test_images_of_two_sizes_are_refused_with_the_node_to_use():
    with pytest.raises(
        ValueError,
        match=r"320 x 256 px and the refined image 640 x 512.*Upscale Image \(640 x 512\)",
    ):
        composed(two_images()[0], two_images(512, 640)[0], visualize(half_busy())[1])


def test_one_image_with_two_trees_is_refused():
    with pytest.raises(ValueError, match="1 original images, 1 refined ones and 2 trees"):
        composed(*two_images(), visualize(half_busy(batch=2))[1])


def test_a_flag_that_is_none_is_named_before_the_trees_are_looked_at():
    with pytest.raises(ValueError, match="color_match is 1"):
        composed(*two_images(256, 256), visualize(half_busy())[1], color_match=1)


@pytest.mark.parametrize("spare", [(16, 0), (0, 32), (-1, 0)])
def test_an_original_that_lost_no_part_of_a_cell_is_refused(spare):
    """To 240 x 320 px, whose largest cells can be of 16 px."""
    original = torch.rand(1, 240 + spare[0], 320 + spare[1], 3)
    with pytest.raises(ValueError, match="both must have one size"):
        composed(original, two_images(240)[1], visualize(half_busy())[1])


def test_a_tree_of_another_aspect_is_refused_in_px():
    with pytest.raises(
        ValueError, match=r"image of 320 x 256 px, but the image has 256 x 256 px, another aspect"
    ):
        composed(*two_images(256, 256), visualize(half_busy())[1])


def test_the_facts_are_those_of_the_tree():
    trees, maps = visualize(half_busy())[1:]
    text, tiles, kept, denoise, cost = QuadtreeInfo.execute(trees, 20).args
    assert tiles == len(trees[0].leaves) and f"{tiles} tiles" in text
    assert kept == pytest.approx(float((maps == 0).float().mean()), abs=1e-6)
    assert denoise == pytest.approx(float(maps.mean()), abs=1e-4)
    assert (
        f"kept: {100 * kept:.1f}%" in text
        and f"about {100 * cost:.0f}% of the full model cost at 20 steps" in text
    )
    assert 0 < cost < 1 and cost == estimate_cost(
        trees, Settings(), TYPICAL, sampling=Sampling(steps=20), height=32, width=40
    )
    assert QuadtreeInfo.execute(trees, 4).args[4] != cost
    whole = QuadtreeInfo.execute((*trees, *visualize(half_busy(), max_denoise=0.0)[1]), 20).args
    assert whole[2] == pytest.approx((kept + 1) / 2) and whole[4] == pytest.approx(cost / 2)


def test_every_node_that_the_panel_sees_through_is_tried_on_the_server():
    assert {"ImageInvert", *(kind for kind, _ in THROUGH)} == set(IMAGE_INPUTS)
