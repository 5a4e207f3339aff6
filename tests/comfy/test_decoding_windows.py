"""Decoding in windows: each by itself where the VAE looks at the whole image, and what other VAEs
need."""

import comfy.model_management
import comfy.sd
import pytest
import torch
from quadtree_pack.image import decoder, decoding, splitting
from quadtree_pack.testing.decodes import (
    CORNER,
    LARGE,
    LEVEL,
    REACH,
    SIZE,
    Watch,
    composed,
    corners,
    decoded,
    picture,
    whole,
)
from quadtree_pack.testing.support import half_kept, tree_of
from quadtree_pack.testing.tiny_vaes import ltx2, pixels, taesd, vae_latent

pytestmark = pytest.mark.usefixtures("small_windows")


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_approximately_only_windows_are_decoded_and_kept_px_stay(name, vaes):
    vae = vaes[name]
    samples, original = vae_latent(vae, *LARGE), picture(vae, LARGE)
    with Watch(vae) as mine:
        result = decoded(vae, samples, CORNER, original, approximate=True)
    with Watch(vae) as full:
        whole(vae, samples)
    assert max(mine.px) < 0.3 * max(full.px) and sum(mine.px) < 0.3 * sum(full.px)
    free = CORNER.denoise_map(*original.shape[1:3]) > 0
    assert torch.equal(result[0, ~free], original[0, ~free]) and not torch.equal(
        result[0, free], original[0, free]
    )


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_approximately_one_window_that_holds_the_image_is_a_full_decode(name, vaes, monkeypatch):
    vae = vaes[name]
    monkeypatch.setattr(decoder, "WINDOW_PX", 512)
    samples, original, tree = vae_latent(vae, *SIZE), picture(vae), tree_of([[1.0]], *SIZE)
    result = decoded(vae, samples, tree, original, approximate=True)
    assert (result[0] - whole(vae, samples)[0]).abs().max() < LEVEL / 10


def test_windows_that_are_decoded_each_by_itself_fade_into_each_other(vaes, monkeypatch):
    """With a decoder that looks no further than the windows overlap, they must add up to the full
    decode."""
    vae = vaes["taesd"]
    monkeypatch.setattr(decoding, "OVERLAP_PX", 8 * 2 * REACH["taesd"])
    monkeypatch.setattr(decoder, "WINDOW_PX", 640)
    monkeypatch.setattr(decoding, "find_split_point", lambda *_: None)
    cells = 96, 160
    samples, original, tree = vae_latent(vae, *cells), picture(vae, cells), half_kept(*cells)
    with Watch(vae) as watch:
        result = decoded(vae, samples, tree, original, approximate=True)
    free = tree.denoise_map(*original.shape[1:3]) > 0
    assert (result[0] - whole(vae, samples)[0])[free].abs().max() < LEVEL / 10
    assert max(watch.px) < 8**2 * cells[0] * cells[1], "more than one window"


def test_out_of_memory_the_windows_become_smaller(vaes, monkeypatch):
    vae = vaes["sd"]
    monkeypatch.setattr(decoding, "OVERLAP_PX", 16)
    samples, original, tree = vae_latent(vae, *SIZE), picture(vae), tree_of([[1.0]], *SIZE)
    call, seen = decoder.Decoder.run, []

    def little_memory(self, cells):
        seen.append(max(cells.shape[-2:]))
        if seen[-1] > 16:
            raise torch.OutOfMemoryError("no memory")
        return call(self, cells)

    monkeypatch.setattr(decoding, "find_split_point", lambda *_: None)
    monkeypatch.setattr(decoder.Decoder, "run", little_memory)
    result = decoded(vae, samples, tree, original, approximate=True)
    assert max(seen) > 16 and seen[-1] <= 16 and result.isfinite().all()


def test_the_colours_of_the_decoded_image_can_be_matched(vaes):
    vae = vaes["sd"]
    samples, original, tree = vae_latent(vae, *SIZE), picture(vae), half_kept(*SIZE)
    full = whole(vae, samples)[0]
    result = decoded(vae, samples, tree, original, color_match=True)
    assert torch.equal(result[0], composed(original[0], full, tree, match=True))


def in_tiles(vae, cells):
    """The VAE, whose model now decodes tiles of so many cells and puts them together, as some of
    core's do by themselves."""
    decode = vae.first_stage_model.decode

    def tiled(latent):
        rows = (row.split(cells, -1) for row in latent.split(cells, -2))
        return torch.cat([torch.cat([decode(tile) for tile in row], -1) for row in rows], -2)

    vae.first_stage_model.decode = tiled
    return vae


def test_a_vae_that_goes_over_the_latent_in_tiles_itself_decodes_all_of_it():
    vae = in_tiles(taesd(), 16)
    samples, original = vae_latent(vae, *LARGE), picture(vae, LARGE)
    tree = tree_of([[0.0] * 8] * 4 + [[0.0] * 4 + [1.0] + [0.0] * 3] + [[0.0] * 8] * 3, *LARGE)
    assert torch.equal(
        decoded(vae, samples, tree, original)[0],
        composed(original[0], whole(vae, samples)[0], tree),
    )


def test_without_memory_for_the_features_core_decodes_in_its_own_way(vaes, monkeypatch, caplog):
    vae = vaes["taesd"]
    samples, original, tree = vae_latent(vae, *LARGE), picture(vae, LARGE), CORNER

    def no_memory(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(decoder.Decoder, "run_first_part", no_memory)
    result = decoded(vae, samples, tree, original)
    assert (
        torch.equal(result[0], composed(original[0], whole(vae, samples)[0], tree))
        and "out of memory" in caplog.text
    )


def test_a_file_without_a_vae_is_refused_in_core_s_words():
    empty = comfy.sd.VAE(sd={"x": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="does not contain a valid VAE"):
        decoded(
            empty, torch.zeros(1, 4, *SIZE), tree_of([[1.0]], *SIZE), torch.zeros(1, 256, 320, 3)
        )


@pytest.mark.parametrize("approximate", [False, True])
def test_a_vae_whose_px_are_not_what_it_says_is_refused(approximate):
    vae = ltx2()
    samples, tree = vae_latent(vae, 8, 8), tree_of([[1.0]], 8, 8, 16)
    with pytest.raises(
        ValueError,
        match=r"8 x 8 cells to 256 x 256 px, but declares 16 px per cell.*Use ComfyUI's",
    ):
        decoded(vae, samples, tree, torch.zeros(1, 128, 128, 3), approximate=approximate)


def test_a_vae_without_a_decoder_is_said_not_to_be_decoded_in_parts(caplog):
    vae = pixels()
    samples, original, tree = (
        torch.rand(1, 3, 64, 64),
        torch.rand(1, 64, 64, 3),
        half_kept(64, 64, 1),
    )
    with caplog.at_level("INFO"):
        result = decoded(vae, samples, tree, original)
    assert torch.equal(result[0], composed(original[0], whole(vae, samples)[0], tree))
    assert "this VAE cannot be decoded in parts, so the whole image is decoded" in caplog.text


def failing_below(vae, cells, error):
    """The VAE, whose own code fails for a latent with fewer cells than these."""
    decode = vae.first_stage_model.decode

    def picky(latent):
        if latent.shape[-1] < cells:
            raise error
        return decode(latent)

    vae.first_stage_model.decode = picky
    return vae


@pytest.mark.parametrize(
    "error", [KeyError("size"), ZeroDivisionError(), RuntimeError("shapes"), AssertionError()]
)
def test_a_vae_that_fails_on_the_probe_decodes_the_whole_image(error):
    vae = failing_below(taesd(), 16, error)
    samples, original, tree = vae_latent(vae, *LARGE), picture(vae, LARGE), CORNER
    assert torch.equal(
        decoded(vae, samples, tree, original)[0],
        composed(original[0], whole(vae, samples)[0], tree),
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("none left"),
        comfy.model_management.InterruptProcessingException(),
        KeyboardInterrupt(),
    ],
)
def test_an_interrupt_and_a_want_of_memory_are_not_taken_for_the_vae_s_own_failures(error):
    vae = failing_below(taesd(), 16, error)
    with pytest.raises(type(error)):
        decoded(vae, vae_latent(vae, *LARGE), CORNER, picture(vae, LARGE))


# With one more to see that the decoder adds no noise.
@pytest.mark.parametrize(("name", "runs"), [("sd", 6), ("wan22", 7)])
def test_looking_for_a_cut_costs_few_cells(name, runs, vaes, monkeypatch):
    vae, cells = vaes[name], []
    rest = decoder.Decoder.run_second_part

    def note(self, features, *more):
        cells.append(features[0][0, 0].numel())
        return rest(self, features, *more)

    monkeypatch.setattr(decoder.Decoder, "run_second_part", note)
    with torch.no_grad():
        splitting.find_split_point(decoder.Decoder(vae), vae_latent(vae, *SIZE))
    strips = [some for some in cells if some > splitting.PROBE_CELLS**2]
    assert len(cells) <= runs and len(strips) == (2 if name in REACH else 1) and sum(cells) < 300


def test_of_a_small_latent_all_is_decoded_and_nothing_probed(vaes, monkeypatch):
    vae = vaes["taesd"]
    monkeypatch.setattr(decoding, "FEW_CELLS", SIZE[0] * SIZE[1])
    monkeypatch.setattr(decoding, "find_split_point", None)
    samples, original, tree = vae_latent(vae, *SIZE), picture(vae), corners(vae)
    assert torch.equal(
        decoded(vae, samples, tree, original)[0],
        composed(original[0], whole(vae, samples)[0], tree),
    )
