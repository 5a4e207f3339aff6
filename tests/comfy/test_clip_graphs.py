"""Graphs with clips, of ComfyUI's own nodes: what reaches a run from them is right, or refused."""

import comfy.supported_models as supported
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_camera_trajectory import WanCameraEmbedding
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    CFGGuider,
    DisableNoise,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
    SplitSigmas,
)
from comfy_extras.nodes_minimax_h3 import EmptyMiniMaxH3LatentAV
from comfy_extras.nodes_rebatch import ImageRebatch
from comfy_extras.nodes_wan import (
    TrimVideoLatent,
    Wan22ImageToVideoLatent,
    WanCameraImageToVideo,
    WanFirstLastFrameToVideo,
    WanFunControlToVideo,
    WanImageToVideo,
    WanVaceToVideo,
)
from quadtree_pack.nodes import (
    QuadtreeComposite,
    QuadtreeDiffusion,
    QuadtreeInfo,
    QuadtreeVAEDecode,
    QuadtreeVisualizer,
)
from quadtree_pack.quadtree import FrameTrees
from quadtree_pack.testing.clips import object_clip, soft_wall
from quadtree_pack.testing.support import error, on_devices
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import (
    TOKENS,
    Entry,
    build,
    clean_latent,
    cond,
    sample,
)
from quadtree_pack.testing.tiny_vaes import qwen, svd, wan22

import nodes

SIZE = {"width": 192, "height": 128}
BATCHES = ["clip", "clip maximum", "clip per frame"]
INPUTS = {"content_threshold": 0.0, "min_tile_size": 32, "max_tile_size": 0}
INPUTS |= {"min_denoise": 0.4, "max_denoise": 1.0, "line_thickness": 1}
FULL = '[["full", 0, 0, 1, 1]]'
RUN = {"steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}


@pytest.fixture(scope="module")
def vae():
    return qwen(width=8)


@pytest.fixture(autouse=True)
def without_gradients():
    """As ComfyUI runs nodes."""
    with torch.no_grad():
        yield


def clip_of(frames, **size):
    """An object that moves over a wall, small beside its way."""
    size = {**SIZE, **size}
    wall = soft_wall(size["height"], size["width"])
    return object_clip(wall, frames, side=32, start=(32, 16), step=(0, 4))


def trees_of(clip, batch="clip", **inputs):
    return QuadtreeVisualizer.execute(clip, **{**INPUTS, **inputs}, batch=batch).args[1]


def diffusion(model, trees, tile_size=128, **inputs):
    inputs = {"method": "Shifted Feather", "schedule": "hold", "tile_overlap": 32, **inputs}
    inputs = {"tile_batch_size": 4, "feather": 0, "skip_diffusion_below": 0, **inputs}
    return QuadtreeDiffusion.execute(model, trees, tile_size=tile_size, **inputs).args[0]


def ksampler(model, conds, latent, denoise=0.7, **options):
    positive, negative = conds
    run = {**RUN, **options}
    sampled = nodes.KSampler().sample(
        model, 1, positive=positive, negative=negative, latent_image=latent, denoise=denoise, **run
    )
    return sampled[0]["samples"]


def texts(tokens=16):
    return cond(tokens, 1), cond(tokens, 2)


def kept_of(trees, latent, per_latent=4):
    """Cells [T, h, w] that no frame of a latent frame lets change."""
    maps = torch.stack([tree.denoise_map(*latent.shape[-2:]) for tree in trees])
    if len(trees) == 1:
        return (maps == 0).expand(latent.shape[2], -1, -1)
    if latent.shape[2] == 1:  # a still may change where any frame may
        return maps.amax(0, keepdim=True) == 0
    groups = [maps[:1], *maps[1 : 1 + per_latent * (latent.shape[2] - 1)].split(per_latent)]
    return torch.stack([group.amax(0) == 0 for group in groups])


def check_kept(samples, latent, trees, per_latent=4):
    kept = kept_of(trees, latent, per_latent)
    assert 0.2 < kept.double().mean() < 0.98
    for after, before in zip(samples, latent, strict=True):
        assert torch.equal(after[:, kept], before[:, kept])
        assert (after != before)[:, ~kept].any()
    assert samples.isfinite().all()


# --- Conditioning nodes ---------------------------------------------------------------------------


def make_with(node, vae, clip, **options):
    return node.execute(*texts(), vae, **SIZE, length=len(clip), batch_size=1, **options)


def image_to_video(vae, clip):
    return make_with(WanImageToVideo, vae, clip, start_image=clip[:1])


def first_and_last(vae, clip):
    ends = {"start_image": clip[:1], "end_image": clip[-1:]}
    return make_with(WanFirstLastFrameToVideo, vae, clip, **ends)


def vace(vae, clip, **options):
    masks = torch.zeros(len(clip), SIZE["height"], SIZE["width"])
    masks[:, 32:96, 16:120] = 1
    controls = {"strength": 0.8, "control_video": clip, "control_masks": masks}
    return make_with(WanVaceToVideo, vae, clip, **controls, **options)


def fun_control(vae, clip):
    pictures = {"start_image": clip[:1], "control_video": clip}
    return make_with(WanFunControlToVideo, vae, clip, **pictures)


def camera(vae, clip):
    rays = WanCameraEmbedding.execute("Pan Right", **SIZE, length=len(clip)).args[0]
    inputs = {"start_image": clip[:1], "camera_conditions": rays}
    return make_with(WanCameraImageToVideo, vae, clip, **inputs)


CONDITIONED = {
    "wan21_i2v": [image_to_video, first_and_last],
    "wan21_vace": [vace],
    "wan21_fun_control": [fun_control],
    "wan21_camera": [camera],
}


@pytest.mark.parametrize("batch", ["clip", "clip per frame"])
@pytest.mark.parametrize(
    ("family", "make"), [(name, make) for name, some in CONDITIONED.items() for make in some]
)
def test_a_clip_is_refined_with_wan_s_conditioning_nodes(vae, family, make, batch):
    entry, clip = entry_of(family), clip_of(9)
    *conds, empty = make(vae, clip).args[:3]
    latent = {"samples": vae.encode(clip)}
    assert empty["samples"].shape == latent["samples"].shape
    trees = trees_of(clip, batch)
    check_kept(ksampler(diffusion(entry.model, trees), conds, latent), latent["samples"], trees)
    whole = diffusion(entry.model, trees_of(clip, batch, regions=FULL), tile_size=0)
    assert torch.equal(ksampler(whole, conds, latent), ksampler(entry.model, conds, latent))


def test_a_reference_of_vace_in_front_of_the_clip(vae):
    """One tree serves the clip and its reference; trees of frames say that one is too many."""
    entry, clip = entry_of("wan21_vace"), clip_of(9)
    *conds, empty, trim = vace(vae, clip, reference_image=clip[:1]).args
    assert trim == 1 and empty["samples"].shape[2] == 4
    longer = torch.cat([vae.encode(clip[:1]), vae.encode(clip)], 2)
    trees = trees_of(clip)
    samples = ksampler(diffusion(entry.model, trees), conds, {"samples": longer})
    check_kept(samples, longer, trees)
    trimmed = TrimVideoLatent.execute({"samples": samples}, trim).args[0]
    result = QuadtreeVAEDecode.execute(trimmed, vae, trees, clip, 0).args[0]
    kept = trees[0].denoise_map(128, 192) == 0
    assert torch.equal(result[:, kept], clip[:, kept])
    with pytest.raises(ValueError, match=r"make 3 latent frames .* latent has 4"):
        ksampler(
            diffusion(entry.model, trees_of(clip, "clip per frame")), conds, {"samples": longer}
        )


def test_the_first_frame_of_wan_22_is_given_by_its_mask():
    entry, vae = entry_of("wan22_5b"), wan22(width=8)
    size = {"width": 384, "height": 256}
    clip = clip_of(9, **size)
    latent = Wan22ImageToVideoLatent.execute(
        vae, **size, length=9, batch_size=1, start_image=clip[:1]
    ).args[0]
    trees = trees_of(clip)
    samples = ksampler(diffusion(entry.model, trees, 256), texts(), latent, denoise=1.0)
    given = latent["samples"][:, :, 0]
    assert error(samples[:, :, 0], given) < 1e-5
    assert samples[:, :, 1:].isfinite().all() and samples[:, :, 1:].count_nonzero()


# --- Numbers of frames, clips and trees -----------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 6, 11])
@pytest.mark.parametrize("batch", BATCHES)
def test_any_number_of_frames_goes_from_the_visualizer_to_composite(vae, frames, batch):
    entry, clip = entry_of("wan21_t2v"), clip_of(frames)
    trees, latent = trees_of(clip, batch), vae.encode(clip)
    samples = ksampler(diffusion(entry.model, trees), texts(), {"samples": latent})
    if frames > 1:
        check_kept(samples, latent, trees)
    result = QuadtreeVAEDecode.execute({"samples": samples}, vae, trees, clip, 16).args[0]
    assert len(result) == 1 + (frames - 1) // 4 * 4
    decoded = nodes.VAEDecode().decode(vae, {"samples": samples})[0]
    composed = QuadtreeComposite.execute(clip[: len(result)], decoded, trees, 16).args[0]
    assert (composed - result).abs().max() < 1 / 255
    assert f"{frames} frames" in QuadtreeInfo.execute(trees, 20).args[0] or frames == 1


@pytest.mark.parametrize("batch", BATCHES)
def test_two_clips_in_one_latent_are_kept_alike(vae, batch):
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    one = vae.encode(clip)
    both, trees = torch.cat([one, clean_latent(one.shape, 7)]), trees_of(clip, batch)
    model = diffusion(entry.model, trees)
    samples = ksampler(model, texts(), {"samples": both})
    check_kept(samples, both, trees)
    one_by_one = [
        QuadtreeVAEDecode.execute({"samples": each[None]}, vae, trees, clip, 0).args[0]
        for each in samples
    ]
    result = QuadtreeVAEDecode.execute({"samples": samples}, vae, trees, clip, 0).args[0]
    assert torch.equal(result, torch.cat(one_by_one))


def test_each_of_two_clips_has_its_own_tree(vae):
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    one = vae.encode(clip)
    both = torch.cat([one, clean_latent(one.shape, 7)])
    trees = trees_of(clip)[0], trees_of(clip.flip(2))[0]
    samples = ksampler(diffusion(entry.model, trees), texts(), {"samples": both})
    for number, tree in enumerate(trees):
        check_kept(samples[number, None], both[number, None], (tree,))
    both_clips = torch.cat([clip, clip.flip(2)])
    result = QuadtreeVAEDecode.execute({"samples": samples}, vae, trees, both_clips, 0).args[0]
    for number, tree in enumerate(trees):
        kept, part = tree.denoise_map(128, 192) == 0, slice(9 * number, 9 * number + 9)
        assert torch.equal(result[part, kept], both_clips[part, kept])
        assert (result[part, ~kept] != both_clips[part, ~kept]).flatten(1).any(1).all()


@pytest.mark.parametrize(("given", "batch"), [(9, "images"), (3, "images"), (5, "clip per frame")])
def test_trees_that_are_not_those_of_the_clip_are_refused_in_words(vae, given, batch):
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    model = diffusion(entry.model, trees_of(clip[:given], batch))
    words = "choose clip in the input batch|the 9 frames that the latent was made of"
    with pytest.raises(ValueError, match=words):
        ksampler(model, texts(), {"samples": vae.encode(clip)})


@pytest.mark.parametrize("batch", ["images", *BATCHES])
def test_the_tree_of_a_still_serves_a_clip(vae, batch):
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    trees, latent = trees_of(clip[:1], batch), vae.encode(clip)
    samples = ksampler(diffusion(entry.model, trees), texts(), {"samples": latent})
    check_kept(samples, latent, trees)
    result = QuadtreeVAEDecode.execute({"samples": samples}, vae, trees, clip, 0).args[0]
    kept = trees[0].denoise_map(128, 192) == 0
    assert torch.equal(result[:, kept], clip[:, kept])


@pytest.mark.parametrize("batch", BATCHES)
def test_a_clip_serves_an_image_model_as_a_batch_or_as_a_still(batch):
    entry, clip = entry_of("sd15"), clip_of(5)
    latent, conds = clean_latent((5, 4, 16, 24)), texts(77)
    trees = trees_of(clip, batch)
    samples = ksampler(diffusion(entry.model, trees), conds, {"samples": latent})
    kept = kept_of(trees, latent.movedim(0, 1)[None], 1)
    assert torch.equal(samples.movedim(1, 0)[:, kept], latent.movedim(1, 0)[:, kept])
    still = ksampler(diffusion(entry.model, trees), conds, {"samples": latent[:1]})
    assert torch.equal(still[0][:, kept.all(0)], latent[0][:, kept.all(0)])
    if batch == "clip per frame":
        with pytest.raises(ValueError, match=r"5 frames of a clip, .* has 3"):
            ksampler(diffusion(entry.model, trees), conds, {"samples": latent[:3]})


def test_stills_of_a_video_model_follow_the_trees_of_the_clip_s_frames(vae):
    """As after VAE Encode of each frame by itself and Batch Latents."""
    entry, clip = entry_of("wan21_t2v"), clip_of(5)
    latent = torch.cat([vae.encode(frame[None]) for frame in clip])
    assert latent.shape == (5, 16, 1, 16, 24)
    trees = [*trees_of(clip[:1], min_denoise=1.0), *trees_of(clip[:1].flip(2), min_denoise=1.0)]
    trees = FrameTrees([trees[0], trees[0], trees[1], trees[1], trees[1]])
    samples = ksampler(diffusion(entry.model, trees), texts(), {"samples": latent})
    result = QuadtreeVAEDecode.execute({"samples": samples}, vae, trees, clip, 0).args[0]
    assert len(result) == 5
    for number, tree in enumerate(trees):
        kept = tree.denoise_map(16, 24) == 0
        after, before = samples[number, :, 0], latent[number, :, 0]
        assert torch.equal(after[:, kept], before[:, kept])
        assert (after != before)[:, ~kept].any()
        px = tree.denoise_map(128, 192) == 0
        assert torch.equal(result[number, px], clip[number, px])
        assert not torch.equal(result[number, ~px], clip[number, ~px])
    with pytest.raises(ValueError, match=r"5 frames of a clip, .* has 3"):
        ksampler(diffusion(entry.model, trees), texts(), {"samples": latent[:3]})


def test_frames_that_a_node_takes_out_have_a_clip_of_their_own(vae):
    """Rebatch Images makes clips of a clip; each has its own trees and latent."""
    entry, clip = entry_of("wan21_t2v"), clip_of(18)
    parts = ImageRebatch.execute([clip], [9]).args[0]
    assert [len(part) for part in parts] == [9, 9]
    for part in parts:
        trees, latent = trees_of(part, "clip per frame"), vae.encode(part)
        samples = ksampler(diffusion(entry.model, trees), texts(), {"samples": latent})
        check_kept(samples, latent, trees)


# --- Masks, context windows, stages, prompts ------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 9])
def test_a_noise_mask_in_px_closes_a_part_of_the_clip(vae, frames):
    """Set Latent Noise Mask, with one mask or one for each frame, as ComfyUI's samplers take it."""
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    mask = torch.ones(frames, SIZE["height"], SIZE["width"])
    mask[:, :, :64] = 0
    latent = nodes.SetLatentNoiseMask().set_mask({"samples": vae.encode(clip)}, mask)[0]
    trees = trees_of(clip)
    plain = ksampler(entry.model, texts(), latent)
    samples = ksampler(diffusion(entry.model, trees), texts(), latent)
    closed = error(plain[..., :8], latent["samples"][..., :8]) < 1e-5
    assert closed and error(samples[..., :8], latent["samples"][..., :8]) < 1e-5
    check_kept(samples, latent["samples"], trees)


@pytest.mark.parametrize("batch", ["clip", "clip per frame"])
def test_a_clip_s_trees_hold_in_context_windows_in_both_orders(vae, batch):
    entry, clip = entry_of("wan21_t2v"), clip_of(21)
    latent, trees = vae.encode(clip), trees_of(clip, batch)

    def in_context(model):
        options = (3, 1, "standard_static", 1, False, "pyramid", 2, False)
        return ContextWindowsManualNode.execute(model, *options).args[0]

    results = []
    for model in (
        in_context(diffusion(entry.model, trees)),
        diffusion(in_context(entry.model), trees),
    ):
        results.append(ksampler(model, texts(), {"samples": latent}))
        check_kept(results[-1], latent, trees)
    assert error(*results) < 1e-6


@pytest.mark.parametrize("batch", ["clip", "clip per frame"])
def test_two_samplers_that_split_the_sigmas_are_one_run(vae, batch):
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    latent, trees = {"samples": vae.encode(clip)}, trees_of(clip, batch)
    sigmas = BasicScheduler.execute(entry.model, "simple", 6, 0.8).args[0]
    options = {"clean_latent": latent, "all_sigmas": sigmas, "tile_size": 0}

    def run(samples, noise, part, **options):
        model = diffusion(entry.model, trees, **options)
        guider = CFGGuider.execute(model, *texts(), 2.0).args[0]
        sampler = KSamplerSelect.execute("euler").args[0]
        return SamplerCustomAdvanced.execute(noise, guider, sampler, part, samples).args[0]

    noise = RandomNoise.execute(3).args[0]
    once = run(latent, noise, sigmas, tile_size=0)["samples"]
    high, low = SplitSigmas.execute(sigmas, 3).args
    first = run(latent, noise, high, **options)
    second = run(first, DisableNoise.execute().args[0], low, **options)["samples"]
    assert error(second, once) < 1e-5
    check_kept(second, latent["samples"], trees)


def test_two_prompts_after_each_other(vae):
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    latent, trees = {"samples": vae.encode(clip)}, trees_of(clip, "clip per frame")
    times = nodes.ConditioningSetTimestepRange()
    first, second = cond(16, 1), cond(16, 5)
    prompts = times.set_range(first, 0.0, 0.6)[0] + times.set_range(second, 0.6, 1.0)[0]
    samples = ksampler(diffusion(entry.model, trees), (prompts, cond(16, 2)), latent)
    check_kept(samples, latent["samples"], trees)
    only = ksampler(diffusion(entry.model, trees), (first, cond(16, 2)), latent)
    assert error(samples, only) > 1e-3


def test_an_empty_clip_has_nothing_to_keep_and_is_sampled(vae):
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    empty = {"samples": torch.zeros(1, 16, 3, 16, 24)}
    for batch in ("clip", "clip per frame"):
        samples = ksampler(diffusion(entry.model, trees_of(clip, batch)), texts(), empty, 1.0)
        assert samples.isfinite().all() and samples.count_nonzero()


def test_the_trees_of_a_small_clip_serve_its_enlarged_latent(vae):
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    trees = trees_of(clip, "clip per frame")
    latent = nodes.LatentUpscaleBy().upscale({"samples": vae.encode(clip)}, "nearest-exact", 2.0)[0]
    assert latent["samples"].shape[2:] == (3, 32, 48)
    samples = ksampler(diffusion(entry.model, trees, 256), texts(), latent)
    check_kept(samples, latent["samples"], trees)


def test_several_gpus_share_the_windows_of_a_clip(vae):
    entry, clip = entry_of("wan21_t2v"), clip_of(9)
    latent, trees = {"samples": vae.encode(clip)}, trees_of(clip, "clip per frame")
    plain = ksampler(diffusion(entry.model, trees), texts(), latent)
    model = diffusion(on_devices(entry.model, 2, lambda: entry_of("wan21_t2v")), trees)
    assert torch.equal(ksampler(model, texts(), latent), plain)


def test_svd_s_frames_go_from_images_to_images():
    entry, vae = entry_of("svd"), svd(width=32)
    clip = clip_of(5)
    trees, latent = trees_of(clip, "clip per frame"), clean_latent((5, 4, 16, 24))
    model = diffusion(entry.model, trees)
    samples = sample(entry, latent, model=model, steps=3, denoise=0.7)
    result = QuadtreeVAEDecode.execute({"samples": samples}, vae, trees, clip, 0).args[0]
    decoded = nodes.VAEDecode().decode(vae, {"samples": samples})[0]
    for frame, tree in enumerate(trees):
        kept = tree.denoise_map(128, 192) == 0
        assert torch.equal(result[frame][kept], clip[frame][kept])
        assert torch.equal(result[frame][~kept], decoded[frame][~kept])


def test_minimax_h3_which_samples_video_and_audio_is_refused_in_words():
    sizes = {"hidden_size": 64, "num_layers": 1, "token_refiner_num_layers": 1}
    sizes |= {"num_attention_heads": 2, "attention_head_dim": 32, "ffn_hidden_size": 64}
    sizes |= {"text_dim": TOKENS, "time_embed_hidden_size": 64, "time_embed_dim": 64}
    model = build(
        supported.MiniMaxH3, {"image_model": "minimax_h3", **sizes, "rope_inv_freq_len": 5}
    )
    entry = Entry("minimax_h3", model, lambda seed: cond(16, seed))
    latent = EmptyMiniMaxH3LatentAV.execute(384, 256, 22).args[0]["samples"]
    assert isinstance(sample(entry, latent, steps=1), NestedTensor)
    tiled = diffusion(model, trees_of(clip_of(22, width=384, height=256)), 256)
    with pytest.raises(ValueError, match=r"several latents packed in one.* Sample it without"):
        sample(entry, latent, model=tiled, steps=1)
