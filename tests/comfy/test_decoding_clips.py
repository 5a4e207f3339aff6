"""Clips: decoded in windows over space with all frames, and composed frame by frame."""

import pytest
import torch
from quadtree_pack.image import decoder, decoding
from quadtree_pack.image.decoder import Decoder, count_px_frames
from quadtree_pack.image.splitting import find_split_point
from quadtree_pack.nodes import QuadtreeComposite
from quadtree_pack.quadtree import FrameTrees
from quadtree_pack.testing.decodes import LEVEL, Watch, decoded, whole
from quadtree_pack.testing.support import tree_of
from quadtree_pack.testing.tiny_models.building import clean_latent
from quadtree_pack.testing.tiny_vaes import VIDEO_VAES, ltxv, qwen, svd

pytestmark = pytest.mark.usefixtures("small_windows")

CELLS = 16, 48
# Long enough for windows with the reach of each, which Wan 2.2's is largest of.
LONG = {"wan22": (8, 64), "hunyuan15": (8, 48), "ltxv": (8, 32), "taehv": (8, 64)}
NORMED = ["hunyuan", "mochi", "cosmos", "cogvideox", "seedvr2"]


@pytest.fixture(scope="module")
def vae():
    return qwen(width=8)


def clip_of(vae, frames, cells=CELLS):
    """A latent of so many frames, and originals for what it decodes to."""
    latent = clean_latent((1, vae.latent_channels, frames, *cells))
    height, width = (length * vae.spacial_compression_decode() for length in cells)
    shape = (count_px_frames(vae, latent), height, width, 3)
    return latent, torch.rand(shape, generator=torch.Generator().manual_seed(1))


def corner_tree(free, cells=CELLS, px_per_cell=8):
    """A tree whose first leaf alone may change, or none."""
    return tree_of([[free] + [0.0] * 7, [0.0] * 8], *cells, px_per_cell)


def decode_corner(vae, latent, original, **options):
    """What Quadtree VAE Decode makes of a clip whose first leaf may change, and that leaf's px."""
    tree = corner_tree(1.0, latent.shape[-2:], vae.spacial_compression_decode())
    free = tree.denoise_map(*original.shape[1:3]) > 0
    result = decoded(vae, latent, tree, original, **options)
    assert result.shape == original.shape
    assert torch.equal(result[:, ~free], original[:, ~free])
    return result, free


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_what_changed_is_decoded_in_windows_and_equals_the_full_decode(vae, frames):
    mine, full = check_windows(vae, *clip_of(vae, frames))
    assert sum(mine) < 0.7 * sum(full)


@pytest.mark.parametrize("name", LONG)
def test_windows_of_every_local_video_vae_equal_the_full_decode(name):
    vae = VIDEO_VAES[name]() if name == "taehv" else VIDEO_VAES[name](width=8)
    vae.first_stage_model.decode_noise_scale = 0.0  # LTXV's, on the latent: each decode has its own
    check_windows(vae, *clip_of(vae, 3, LONG[name]))


def check_windows(vae, latent, original):
    """Compare with a full decode; return the px of every convolution in both."""
    with Watch(vae) as mine:
        result, free = decode_corner(vae, latent, original)
    with Watch(vae) as full:
        expected = whole(vae, latent)
    assert (result - expected)[:, free].abs().max() < LEVEL / 10
    assert max(mine.px) < 0.7 * max(full.px)
    return mine.px, full.px


@pytest.mark.parametrize("name", NORMED)
def test_a_video_vae_with_norms_over_the_whole_is_decoded_as_comfyui_does(
    name, monkeypatch, caplog
):
    vae = VIDEO_VAES[name]()
    latent, original = clip_of(vae, 3, (8, 16))
    with caplog.at_level("INFO"):
        result, free = decode_corner(vae, latent, original)
    assert caplog.text.count("cannot be decoded in parts") == 1
    assert (result - whole(vae, latent))[:, free].abs().max() < LEVEL / 10
    assert not torch.equal(result[:, free], original[:, free])
    seen = []
    monkeypatch.setattr(Decoder, "fits", lambda *_: False)
    monkeypatch.setattr(decoder, "TILE_PX", 64)
    monkeypatch.setattr(decoder, "TILE_OVERLAP_PX", 16)
    tiled = vae.decode_tiled
    monkeypatch.setattr(vae, "decode_tiled", lambda *a, **k: seen.append(k) or tiled(*a, **k))
    with torch.inference_mode():  # as ComfyUI runs nodes
        result, free = decode_corner(vae, latent, original)
    assert len(seen) == 1 and not torch.equal(result[:, free], original[:, free])


def test_a_decoder_that_adds_noise_of_its_own_is_not_split():
    """Windows would have other noise than their neighbours."""
    vae = ltxv(8, inject_noise=True)
    latent, original = clip_of(vae, 2, (4, 8))
    assert find_split_point(Decoder(vae), latent) is None
    result, free = decode_corner(vae, latent, original)
    assert not torch.equal(result[:, free], original[:, free])


def test_a_vae_that_makes_other_frames_than_it_declares_is_refused_in_words():
    """CogVideoX's makes 8 of 2 latent frames, and 9 of 3."""
    vae = VIDEO_VAES["cogvideox"]()
    latent, original = clip_of(vae, 2, (8, 16))
    with pytest.raises(ValueError, match="makes 8 frames of this latent, but declares 5"):
        decode_corner(vae, latent, original)


def test_a_frame_has_the_original_s_px_where_its_latent_frame_keeps(vae):
    latent, original = clip_of(vae, 3)
    kept, free = corner_tree(0.0), corner_tree(1.0)
    # Frame 6 lies in the latent frame of frames 5 to 8.
    trees = FrameTrees([*[kept] * 6, free, *[kept] * 2])
    result = decoded(vae, latent, trees, original)
    place = free.denoise_map(*original.shape[1:3]) > 0
    expected = whole(vae, latent)
    assert torch.equal(result[:, ~place], original[:, ~place])
    assert torch.equal(result[:5], original[:5])
    assert (result - expected)[5:, place].abs().max() < LEVEL / 10


@pytest.mark.parametrize(
    ("name", "freed", "changed"),
    [
        # Trees change with every fourth frame: 0, 1-4, 5-8 ...
        ("mochi", range(1, 5), range(1, 7)),  # latent frames of 6: 0, 1-6, 7-12
        ("cosmos", range(9, 13), range(9, 17)),  # latent frames of 8: 0, 1-8, 9-16
    ],
)
def test_frames_of_latent_frames_of_any_length_are_the_original_s_where_all_keep(
    name, freed, changed
):
    vae = VIDEO_VAES[name]()
    cells = 8, 16
    latent, original = clip_of(vae, 3, cells)
    kept, free = (corner_tree(denoise, cells) for denoise in (0.0, 1.0))
    trees = FrameTrees([free if frame in freed else kept for frame in range(len(original))])
    px = free.denoise_map(*original.shape[1:3]) > 0
    expected = whole(vae, latent)
    composed = QuadtreeComposite.execute(original, expected, trees, 0).args[0]
    for result, shown in (decoded(vae, latent, trees, original), changed), (composed, freed):
        for frame in range(len(original)):
            source = expected if frame in shown else original
            assert (result[frame, px] - source[frame, px]).abs().max() < LEVEL / 10
            assert torch.equal(result[frame, ~px], original[frame, ~px])
            assert frame in shown or torch.equal(result[frame], original[frame])


@pytest.mark.parametrize("given", [10, 11, 12])
def test_frames_that_the_vae_has_dropped_are_left_out_in_words(vae, given, caplog):
    latent, original = clip_of(vae, 3)
    longer = torch.cat([original, original[: given - 9]])
    tree = corner_tree(1.0)
    with caplog.at_level("INFO"):
        result = decoded(vae, latent, tree, longer)
    assert f"has {given} frames and the decoded clip 9" in caplog.text
    assert torch.equal(result, decoded(vae, latent, tree, original))
    trees = FrameTrees([tree] * given)
    assert torch.equal(decoded(vae, latent, trees, longer), result)


def test_composite_names_the_frames_that_a_vae_has_dropped():
    clip = torch.rand(10, CELLS[0] * 8, CELLS[1] * 8, 3)
    tree = corner_tree(1.0)
    with pytest.raises(
        ValueError, match=r"10 original images, 9 refined .* the original's first 9"
    ):
        QuadtreeComposite.execute(clip, clip[:9], (tree,), 0)
    (result,) = QuadtreeComposite.execute(clip[:9], clip[:9], FrameTrees([tree] * 10), 0).args
    assert torch.equal(result, clip[:9])
    with pytest.raises(ValueError, match="9 refined ones and 8 trees"):
        QuadtreeComposite.execute(clip[:9], clip[:9], FrameTrees([tree] * 8), 0)


def test_composite_takes_each_frame_s_tree_and_for_a_still_all_of_them():
    old, new = torch.zeros(5, 128, 384, 3), torch.ones(5, 128, 384, 3)
    trees = FrameTrees([corner_tree(float(frame == 2)) for frame in range(5)])
    (result,) = QuadtreeComposite.execute(old, new, trees, 0).args
    assert [bool(frame.any()) for frame in result] == [False, False, True, False, False]
    (still,) = QuadtreeComposite.execute(old[:1], new[:1], trees, 0).args
    assert torch.equal(still[0], result[2])


def test_a_decoder_that_cannot_be_split_decodes_the_clip_as_a_whole(vae, monkeypatch):
    monkeypatch.setattr(decoding, "find_split_point", lambda *_: None)
    latent, original = clip_of(vae, 3)
    tree = corner_tree(1.0)
    free = tree.denoise_map(*original.shape[1:3]) > 0
    result = decoded(vae, latent, tree, original)
    assert (result - whole(vae, latent))[:, free].abs().max() < LEVEL / 10
    assert torch.equal(result[:, ~free], original[:, ~free])
    seen = []
    monkeypatch.setattr(decoder.Decoder, "fits", lambda *_: False)
    monkeypatch.setattr(decoder, "TILE_PX", 128)
    tiled = vae.decode_tiled
    monkeypatch.setattr(vae, "decode_tiled", lambda *a, **k: seen.append(k) or tiled(*a, **k))
    with torch.inference_mode():  # as ComfyUI runs nodes
        result = decoded(vae, latent, tree, original)
    assert seen[0]["tile_x"] == 16 and result.shape == original.shape
    assert torch.equal(result[:, ~free], original[:, ~free])


@pytest.mark.parametrize("change", [lambda found: found[:-1], lambda found: found + found[-1:]])
def test_a_decoder_that_takes_windows_in_other_parts_of_time_decodes_the_clip(
    vae, monkeypatch, change
):
    """As LTXV's may, which divides a clip by the bytes of its frames."""
    first = decoder.Decoder.run_first_part

    def differ(self, cells, module):
        found = first(self, cells, module)
        return found if cells.shape[-1] == 4 else change(found)

    monkeypatch.setattr(decoder.Decoder, "run_first_part", differ)
    latent, original = clip_of(vae, 2)
    tree = corner_tree(1.0)
    free = tree.denoise_map(*original.shape[1:3]) > 0
    result = decoded(vae, latent, tree, original)
    assert (result - whole(vae, latent))[:, free].abs().max() < LEVEL / 10
    assert torch.equal(result[:, ~free], original[:, ~free])


def test_windows_of_a_clip_may_be_decoded_by_themselves(vae, monkeypatch):
    monkeypatch.setattr(decoding, "find_split_point", lambda *_: None)
    monkeypatch.setattr(decoding, "OVERLAP_PX", 32)
    latent, original = clip_of(vae, 2)
    tree = corner_tree(1.0)
    free = tree.denoise_map(*original.shape[1:3]) > 0
    with Watch(vae) as mine:
        result = decoded(vae, latent, tree, original, approximate=True)
    with Watch(vae) as full:
        whole(vae, latent)
    assert max(mine.px) < max(full.px) and torch.equal(result[:, ~free], original[:, ~free])
    assert not torch.equal(result[:, free], original[:, free])


@pytest.mark.parametrize("approximate", [False, True])
def test_images_that_svd_s_vae_takes_for_a_clip_are_decoded_together(monkeypatch, approximate):
    """Each frame depends on those around it, so one by one they would be others."""
    vae, cells = svd(), (16, 48)
    monkeypatch.setattr(decoding, "OVERLAP_PX", 32)
    latent = clean_latent((5, 4, *cells))
    original = torch.rand(5, 128, 384, 3, generator=torch.Generator().manual_seed(1))
    kept, free = corner_tree(0.0), corner_tree(1.0)
    trees = FrameTrees([kept, kept, free, free, kept])
    expected = whole(vae, latent)
    assert (expected[2] - whole(vae, latent[2:3])[0]).abs().max() > 10 * LEVEL
    with Watch(vae) as mine:
        result = decoded(vae, latent, trees, original, approximate=approximate)
    with Watch(vae) as full:
        whole(vae, latent)
    place = free.denoise_map(*original.shape[1:3]) > 0
    assert torch.equal(result[[0, 1, 4]], original[[0, 1, 4]])
    assert torch.equal(result[:, ~place], original[:, ~place])
    if approximate:
        assert max(mine.px) < max(full.px)
        assert not torch.equal(result[2:4, place], original[2:4, place])
    else:
        assert torch.equal(result[2:4, place], expected[2:4, place])


def test_several_clips_are_decoded_each_into_its_frames(vae):
    latent, original = clip_of(vae, 2)
    both = torch.cat([latent, clean_latent(latent.shape, 7)])
    tree = corner_tree(1.0)
    result = decoded(vae, both, tree, original)
    assert len(result) == 10
    assert torch.equal(result[:5], decoded(vae, latent, tree, original))
    assert torch.equal(result[5:], decoded(vae, both[1:], tree, original))


def test_nothing_is_decoded_where_nothing_changed(vae, monkeypatch):
    latent, original = clip_of(vae, 3)
    monkeypatch.setattr(decoder.Decoder, "run", None)
    monkeypatch.setattr(vae, "decode", None)
    assert torch.equal(decoded(vae, latent, corner_tree(0.0), original), original)
