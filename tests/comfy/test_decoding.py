"""Quadtree VAE Decode on core's own VAEs: what changed equals a full decode, what is kept is not
decoded."""

from dataclasses import replace

import comfy.model_management
import comfy.sd
import pytest
import torch
from quadtree_pack.image import decoder, decoding, splitting
from quadtree_pack.quadtree import Quadtree
from quadtree_pack.testing.decodes import (
    CORNER,
    LARGE,
    LEVEL,
    LOCAL,
    REACH,
    SIZE,
    Watch,
    composed,
    corners,
    decoded,
    picture,
    whole,
)
from quadtree_pack.testing.refiner import load as refiner
from quadtree_pack.testing.support import half_kept, tree_of
from quadtree_pack.testing.tiny_vaes import VAES, vae_latent

pytestmark = pytest.mark.usefixtures("small_windows")


zoo = pytest.mark.parametrize("name", VAES)


local = pytest.mark.parametrize("name", LOCAL)


@zoo
def test_what_changed_equals_a_full_decode_and_what_is_kept_the_original(name, vaes):
    vae = vaes[name]
    samples, original, tree = vae_latent(vae, *SIZE), picture(vae), corners(vae)
    result, expected = decoded(vae, samples, tree, original)[0], whole(vae, samples)[0]
    free = tree.denoise_map(*original.shape[1:3]) > 0
    assert (result - expected)[free].abs().max() < LEVEL / 10
    assert torch.equal(result[~free], original[0, ~free]) and 0 < free.float().mean() < 0.2
    assert expected.std() > 20 * LEVEL and (original[0] - expected)[free].abs().max() > 0.5


@zoo
def test_the_decoder_s_reach_is_measured(name, vaes):
    vae = vaes[name]
    with torch.no_grad():
        split = splitting.find_split_point(decoder.Decoder(vae), vae_latent(vae, *SIZE))
    assert (split and split.reach) == REACH.get(name)


@local
def test_context_as_long_as_the_reach_is_needed(name, vaes, monkeypatch):
    """A window with three cells less around it differs: the measured reach is not idle."""
    vae = vaes[name]
    samples, original, tree = vae_latent(vae, *SIZE), picture(vae), corners(vae)
    plan = decoding.plan_windows

    def short(active, size, split, tile):
        return plan(active, size, replace(split, reach=1), tile)

    monkeypatch.setattr(decoding, "plan_windows", short)
    monkeypatch.setattr(decoder.Decoder, "fits", lambda *_: False)
    free = tree.denoise_map(*original.shape[1:3]) > 0
    assert (decoded(vae, samples, tree, original)[0] - whole(vae, samples)[0])[
        free
    ].abs().max() > LEVEL


@pytest.mark.parametrize(("name", "feather"), [("qwen", 32), ("taesd", 0)])
def test_batches_trees_and_odd_sizes_equal_a_full_decode(name, vaes, feather):
    vae = vaes[name]
    cells = 27, 35
    samples = torch.cat([vae_latent(vae, *cells, seed) for seed in (1, 2)])
    trees = corners(vae, cells), half_kept(*cells, vae.spacial_compression_decode())
    original = picture(vae, cells)
    result, expected = decoded(vae, samples, trees, original, feather), whole(vae, samples)
    for number, tree in enumerate(trees):
        wanted = composed(original[0], expected[number], tree, feather)
        assert (result[number] - wanted).abs().max() < LEVEL / 10


def test_only_what_changed_is_decoded(vaes):
    vae = vaes["taesd"]
    samples, original = vae_latent(vae, *LARGE), picture(vae, LARGE)
    with Watch(vae) as mine:
        decoded(vae, samples, CORNER, original)
    with Watch(vae) as full:
        whole(vae, samples)
    assert max(mine.px) < 0.1 * max(full.px) and sum(mine.px) < 0.25 * sum(full.px)


def test_where_nothing_changed_the_vae_is_not_called(vaes):
    vae = vaes["taesd"]
    original = picture(vae)
    with Watch(vae) as watch:
        result = decoded(vae, vae_latent(vae, *SIZE), tree_of([[0.0]], *SIZE), original)
    assert torch.equal(result, original) and not watch.px


@zoo
def test_where_all_changed_it_is_core_s_decode_to_the_bit(name, vaes):
    vae = vaes[name]
    samples = vae_latent(vae, *SIZE)
    result = decoded(
        vae, samples, tree_of([[1.0]], *SIZE, vae.spacial_compression_decode()), picture(vae)
    )
    assert torch.equal(result, whole(vae, samples))


@pytest.mark.parametrize("name", ["qwen", "taesd"])
def test_what_does_not_fit_in_memory_is_decoded_in_windows(name, vaes, monkeypatch):
    vae = vaes[name]
    samples = vae_latent(vae, *SIZE)
    monkeypatch.setattr(decoder.Decoder, "fits", lambda *_: False)
    monkeypatch.setattr(vae, "decode", None)
    result = decoded(
        vae, samples, tree_of([[1.0]], *SIZE, vae.spacial_compression_decode()), picture(vae)
    )
    monkeypatch.undo()
    assert (result - whole(vae, samples)).abs().max() < LEVEL / 10


def failing(monkeypatch, error, most_cells):
    """The second part of the decoder fails for more cells than these."""
    rest, sizes = decoder.Decoder.run_second_part, []

    def refused(self, features, module, like):
        sizes.append(features[0][:, 0].numel())
        if like.shape[-1] > splitting.PROBE_CELLS and sizes[-1] > most_cells:
            raise error
        return rest(self, features, module, like)

    monkeypatch.setattr(decoder.Decoder, "run_second_part", refused)
    return sizes


def test_out_of_memory_it_goes_on_with_smaller_windows(vaes, monkeypatch, caplog):
    vae = vaes["taesd"]
    cells = 64, 64
    samples, original, tree = vae_latent(vae, *cells), picture(vae, cells), tree_of([[1.0]], *cells)
    monkeypatch.setattr(decoder, "WINDOW_PX", 512)
    monkeypatch.setattr(decoder.Decoder, "fits", lambda *_: False)
    sizes = failing(monkeypatch, torch.OutOfMemoryError("out of memory"), 1700)
    result = decoded(vae, samples, tree, original)
    assert max(sizes) > 1700 >= sizes[-1] and "out of memory" in caplog.text
    assert (result - whole(vae, samples)).abs().max() < LEVEL / 10
    failing(monkeypatch, torch.OutOfMemoryError("out of memory"), 0)
    with pytest.raises(torch.OutOfMemoryError):
        decoded(vae, samples, tree, original)


def test_an_interrupt_ends_it_and_nothing_stays_on_the_vae(vaes, monkeypatch):
    vae = vaes["qwen"]
    samples, original, tree = vae_latent(vae, *SIZE), picture(vae), corners(vae)
    before = whole(vae, samples)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        decoded(vae, samples, tree, original)
    comfy.model_management.interrupt_current_processing(False)
    decoded(vae, samples, tree, original)
    assert not any(module._forward_hooks for module in vae.first_stage_model.modules())
    assert torch.equal(whole(vae, samples), before)


def test_a_video_is_refused_where_the_vae_is_one_of_images(vaes):
    samples = torch.zeros(1, 16, 3, *SIZE)
    with pytest.raises(
        ValueError, match=r"video with 3 frames.*connect the VAE of the video model"
    ):
        decoded(vaes["flux"], samples, corners(vaes["flux"]), picture(vaes["flux"]))


def test_a_still_with_or_without_its_time_axis_is_the_same(vaes):
    for name in ("qwen", "taesd"):
        vae = vaes[name]
        samples = vae_latent(vae, *SIZE).reshape(1, -1, *SIZE)
        four, five = (
            decoded(vae, one, corners(vae), picture(vae)) for one in (samples, samples[:, :, None])
        )
        assert torch.equal(four, five)


def test_the_vae_of_another_pack_which_only_decodes_is_asked_for_the_whole_image():
    """The demo's: an object with `decode` and little else of what core's VAEs have."""
    _, vae, _ = refiner()
    original = picture(vae)
    samples = vae.encode(1 - original)
    result = decoded(vae, samples, corners(vae), original)
    free = corners(vae).denoise_map(*original.shape[1:3]) > 0
    assert torch.equal(result[0][free], vae.decode(samples)[0][free]) and torch.equal(
        result[0][~free], original[0][~free]
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"original": torch.zeros(1, 512, 640, 3)},
            r"640 x 512 px and the decoded image 320 x 256.*Upscale Image \(320 x 256\)",
        ),
        ({"original": torch.zeros(1, 264, 327, 3)}, r"both must have one size"),
        (
            {"original": torch.zeros(2, 256, 320, 3), "samples": torch.zeros(3, 4, *SIZE)},
            "2 original images, 3 decoded ones and 1",
        ),
        (
            {"trees": (tree_of([[1.0]], *SIZE), tree_of([[0.0]], *SIZE))},
            "1 original images, 1 decoded ones and 2 trees",
        ),
        ({"color_match": 1, "trees": (tree_of([[1.0]], 40, 20),)}, "color_match is 1"),
        ({"trees": "a tree"}, "quadtree is str"),
        ({"trees": (tree_of([[1.0]], 40, 20),)}, "image has 320 x 256 px, another aspect"),
        ({"feather": -2}, "feather is -2"),
        ({"samples": torch.zeros(1, 64, 100)}, "not the shape of an image latent"),
        ({"vae": None}, "The VAE is missing"),
    ],
)
def test_what_cannot_be_decoded_is_refused(changes, words, vaes):
    vae = vaes["taesd"]
    values = {
        "vae": vae,
        "samples": vae_latent(vae, *SIZE),
        "trees": (corners(vae),),
        "original": picture(vae),
        **changes,
    }
    with pytest.raises(ValueError, match=words):
        decoded(**values)


@pytest.mark.parametrize("spare", [(0, 7), (5, 3), (7, 1)])
def test_of_an_original_that_vae_encode_crops_the_middle_is_kept(spare, vaes):
    """The tree of the whole original keeps the px that it kept there, as those of core's own
    crop."""
    vae = vaes["taesd"]
    height, width = (length * 8 + more for length, more in zip(SIZE, spare, strict=True))
    original = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(2))
    leaves = [
        leaf._replace(x1=min(leaf.x1, width), y1=min(leaf.y1, height))
        for leaf in half_kept(SIZE[0] + 1, SIZE[1] + 1).leaves
    ]
    inside = [leaf for leaf in leaves if leaf.x1 > leaf.x0 and leaf.y1 > leaf.y0]
    tree = Quadtree.from_leaves(width, height, 64, inside)
    samples = vae_latent(vae, *SIZE)
    result = decoded(vae, samples, tree, original)[0]
    crop = vae.vae_encode_crop_pixels
    cropped, free = (
        crop(original)[0],
        crop((tree.denoise_map(height, width) > 0)[None, ..., None].expand(1, -1, -1, 3))[0],
    )
    assert result.shape == cropped.shape and 0.2 < free.float().mean() < 0.8
    assert torch.equal(result[~free], cropped[~free])
    assert (result - whole(vae, samples)[0])[free].abs().max() < LEVEL / 10


def test_a_tree_of_the_cropped_image_lies_on_the_crop(vaes):
    vae = vaes["taesd"]
    original, tree = torch.rand(1, 261, 323, 3), half_kept(*SIZE)
    result = decoded(vae, vae_latent(vae, *SIZE), tree, original)
    kept = tree.denoise_map(*result.shape[1:3]) == 0
    assert torch.equal(result[0, kept], vae.vae_encode_crop_pixels(original)[0, kept])


def test_a_tree_s_px_are_told_once_for_a_whole_batch(vaes, monkeypatch):
    vae, asked = vaes["taesd"], []
    samples, tree = torch.cat([vae_latent(vae, *SIZE, seed) for seed in (1, 2)]), corners(vae)
    denoise_map = Quadtree.denoise_map
    monkeypatch.setattr(
        Quadtree, "denoise_map", lambda *values: asked.append(values) or denoise_map(*values)
    )
    assert len(decoded(vae, samples, tree, picture(vae))) == 2 and len(asked) == 1
