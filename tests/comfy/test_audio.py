"""LTX-2's video packed with its audio: the video is cut into windows, which all hear the audio."""

from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_lt import LTXVAddGuide, LTXVConcatAVLatent
from quadtree_pack.testing.support import (
    Spy,
    error,
    free_cells,
    half_kept,
    on_devices,
    patched,
    tree_of,
)
from quadtree_pack.testing.tiny_models.building import clean_latent, gauss, sample
from quadtree_pack.testing.tiny_models.video import ltx2
from quadtree_pack.utils import Box

HEIGHT, WIDTH, FRAMES, PX = 16, 24, 2, 32
VIDEO, AUDIO = (1, 128, FRAMES, HEIGHT, WIDTH), (1, 8, 10, 16)
RUN = {"steps": 3, "cfg": 3.0, "denoise": 0.5}


class Scene:
    """A tiny LTX-2 on a video with audio."""

    def __init__(self, *, batch=1, video=None, audio=None, video_mask=None, audio_mask=None):
        self.entry = ltx2()
        self.video = clean_latent((batch, *VIDEO[1:]), 5) if video is None else video
        self.audio = gauss((batch, *AUDIO[1:]), 6) if audio is None else audio
        self.latent = NestedTensor([self.video, self.audio])
        self.masks = None
        if video_mask is not None or audio_mask is not None:
            self.masks = NestedTensor(
                [
                    torch.ones(1, 1, 1, HEIGHT, WIDTH) if video_mask is None else video_mask,
                    torch.ones(AUDIO) if audio_mask is None else audio_mask,
                ]
            )

    def tiled(self, tree=None, model=None, **settings):
        tree = tree_of([[1.0]], *self.video.shape[-2:], PX) if tree is None else tree
        return patched(self.entry, tree, model=model, **{"tile_px": 8 * PX, **settings})

    def sample(self, model=None, **options):
        """Return video and audio."""
        options = {**RUN, **options}
        result = sample(self.entry, self.latent, model=model, noise_mask=self.masks, **options)
        return result.unbind()


def local_model(model):
    """A clone whose video tokens see themselves, and hear an audio that listens to itself only."""

    def own_token(attention, q, k, v, heads, *args, **options):
        if q.shape[1] != k.shape[1] or q.shape[1] == AUDIO[2]:
            return attention(q, k, v, heads, *args, **options)
        return v * torch.sigmoid((q * k).mean(-1, keepdim=True))

    model = model.clone()
    options = model.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = own_token
    options["v2a_cross_attn"] = False
    return model


def whole(scene, model=None, tree=None):
    return scene.tiled(tree, model, tile_px=WIDTH * PX)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("settings", [{"batch": 1}, {"batch": 24, "overlap_px": 2 * PX}])
def test_windows_that_hear_the_audio_are_as_without_windows(settings, batch):
    scene = Scene(batch=batch)
    model = local_model(scene.entry.model)
    plain = scene.sample(model)
    spy = Spy(scene.tiled(model=model, **settings))
    for found, expected in zip(scene.sample(spy.model), plain, strict=True):
        assert error(found, expected) < 1e-5
    window = 128 * FRAMES * 8 * 8 + 8 * 10 * 16
    assert {shape[1:] for shape in spy.shapes} == {(1, window)}
    silent = Scene(batch=batch, audio=-scene.audio)
    assert error(silent.sample(model)[0], plain[0]) > 1e-3  # the video hears the audio


@pytest.mark.parametrize("masked", [False, True])
def test_one_window_is_the_plain_run_to_the_bit(masked):
    masks = {}
    if masked:
        masks["video_mask"] = torch.ones(1, 1, FRAMES, HEIGHT, WIDTH)
        masks["video_mask"][..., :4, :9] = 0.3
        masks["audio_mask"] = torch.ones(AUDIO)
        masks["audio_mask"][:, :, :3] = 0
    scene = Scene(**masks)
    for found, expected in zip(scene.sample(whole(scene)), scene.sample(), strict=True):
        assert torch.equal(found, expected)


def test_the_audio_is_the_mean_of_what_windows_make_of_it():
    """In one step, they are ComfyUI's own runs on the crops."""
    scene = Scene()
    noise = comfy.sample.prepare_noise(scene.latent, 42).unbind()
    run = {"steps": 1, "cfg": 3.0}
    crops = []
    for box in [Box(x, y, x + 8, y + 8) for y in (0, 8) for x in (0, 8, 16)]:
        part = (..., *box.slices)
        samples = sample(
            scene.entry,
            NestedTensor([scene.video[part], scene.audio]),
            noise=NestedTensor([noise[0][part], noise[1]]),
            **run,
        )
        crops.append((part, *samples.unbind()))
    mean = torch.stack([audio for *_, audio in crops]).mean(0)
    assert max(error(audio, mean) for *_, audio in crops) > 1e-3
    for batch in (1, 3):
        tiled = scene.tiled(batch=batch, method="MultiDiffusion")
        video, audio = scene.sample(tiled, **run, denoise=1.0)
        assert error(audio, mean) < 1e-5
        for part, expected, _ in crops:
            assert error(video[part], expected) < 1e-5


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc", "heun"])
def test_kept_video_stays_to_the_bit_and_the_audio_goes_with_the_freest(sampler):
    scene = Scene()
    tree = half_kept(HEIGHT, WIDTH, PX, free=0.7)
    free = free_cells(tree, scene.video)
    video, audio = scene.sample(scene.tiled(tree), sampler=sampler)
    assert torch.equal(video[..., ~free], scene.video[..., ~free])
    assert error(video[..., free], scene.video[..., free]) > 0.01
    assert error(audio, scene.audio) > 0.01
    spy = Spy(scene.tiled(tree_of([[0.0]], HEIGHT, WIDTH, PX)))
    video, audio = scene.sample(spy.model, sampler=sampler)
    assert torch.equal(video, scene.video) and torch.equal(audio, scene.audio)
    assert spy.calls == 0


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_half_a_denoise_is_a_run_that_starts_halfway(sampler):
    scene = Scene()
    half = tree_of([[0.5]], HEIGHT, WIDTH, PX)
    run = {"steps": 6, "cfg": 1.0, "denoise": 1.0, "sampler": sampler}
    late = scene.sample(start_step=3, **run)
    for found, expected in zip(scene.sample(whole(scene, tree=half), **run), late, strict=True):
        assert error(found, expected) < 1e-5


def test_an_audio_that_the_mask_closes_stays_and_is_heard_clean():
    scene = Scene(audio_mask=torch.zeros(1, 1, 64, 64))  # as Set Latent Noise Mask gives it
    model = local_model(scene.entry.model)
    plain = scene.sample(model)
    tree = half_kept(HEIGHT, WIDTH, PX)
    free = free_cells(tree, scene.video)
    video, audio = scene.sample(scene.tiled(tree, model))
    assert error(audio, scene.audio) < 1e-6
    assert torch.equal(video[..., ~free], scene.video[..., ~free])
    video, audio = scene.sample(scene.tiled(model=model))
    assert torch.equal(audio, plain[1]) and error(video, plain[0]) < 1e-5


def test_a_mask_of_the_audio_that_has_the_videos_size_goes_whole():
    audio_mask = torch.ones(AUDIO)
    audio_mask[:, :, :3] = 0.3
    video = clean_latent((*VIDEO[:3], *AUDIO[2:]), 5)
    scene = Scene(video=video, video_mask=torch.ones(1, 1, 1, *AUDIO[2:]), audio_mask=audio_mask)
    model = local_model(scene.entry.model)
    plain = scene.sample(model)
    for found, expected in zip(scene.sample(scene.tiled(model=model)), plain, strict=True):
        assert error(found, expected) < 1e-5


def test_an_empty_audio_is_made_where_every_step_has_windows():
    scene = Scene(audio=torch.zeros(AUDIO))
    model = local_model(scene.entry.model)
    plain = scene.sample(model, denoise=1.0)
    samples = scene.sample(scene.tiled(model=model), denoise=1.0)
    assert error(samples[1], plain[1]) < 1e-5
    held = scene.tiled(tree_of([[0.5]], HEIGHT, WIDTH, PX))
    with pytest.raises(ValueError, match=r"audio .* would change at steps .*Set Latent Noise"):
        scene.sample(held, denoise=1.0)


def test_an_audio_beside_a_closed_video_is_refused_in_words():
    scene = Scene(video_mask=torch.zeros(1, 1, 1, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="the noise mask closes the video"):
        scene.sample(scene.tiled())


def test_text_to_video_with_audio_is_the_plain_run():
    scene = Scene(video=torch.zeros(VIDEO), audio=torch.zeros(AUDIO))
    model = local_model(scene.entry.model)
    plain = scene.sample(model, denoise=1.0)
    tiled = scene.sample(scene.tiled(model=model), denoise=1.0)
    for found, expected in zip(tiled, plain, strict=True):
        assert error(found, expected) < 1e-5


def test_several_devices_hear_as_one_does():
    scene = Scene()
    model = scene.tiled(half_kept(HEIGHT, WIDTH, PX), batch=1)
    several = scene.sample(on_devices(model, 3, ltx2))
    for found, expected in zip(several, scene.sample(model), strict=True):
        assert torch.equal(found, expected)


def test_a_run_out_of_memory_goes_on_smaller():
    scene = Scene()
    model = local_model(scene.entry.model)
    values = 3 * 128 * FRAMES * 8 * 8  # of one window with two conds, and a little

    def limited(apply_model, args):
        if args["input"].numel() > values:
            raise torch.OutOfMemoryError("simulated")
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(limited)
    tiled = scene.sample(scene.tiled(model=model, batch=6))
    plain = scene.sample(local_model(scene.entry.model))
    for found, expected in zip(tiled, plain, strict=True):
        assert error(found, expected) < 1e-5


def test_memory_is_asked_for_the_largest_windows(monkeypatch):
    scene = Scene()
    asked = []
    base = type(scene.entry.model.model)
    required = base.memory_required
    monkeypatch.setattr(
        base,
        "memory_required",
        lambda self, shape, *args, **options: (
            asked.append(shape) or required(self, shape, *args, **options)
        ),
    )
    scene.sample(scene.tiled(batch=2))
    first = next(shape for shape in asked if shape[0] > 1)
    assert first[1:] == [1, 128 * FRAMES * 8 * 8 + 8 * 10 * 16]


def test_guide_frames_go_with_the_clip():
    """As templates of LTX-2 have them: guides are added to the video, and then the audio."""
    entry = ltx2()
    pixels = torch.rand(1, HEIGHT * PX, WIDTH * PX, 3, generator=torch.Generator().manual_seed(0))
    guide = gauss((1, 128, 1, HEIGHT, WIDTH), 9)
    vae = SimpleNamespace(downscale_index_formula=(8, PX, PX), encode=lambda _: guide)
    scene = Scene()
    positive, negative, made = LTXVAddGuide.execute(
        entry.positive, entry.negative, vae, {"samples": scene.video}, pixels, 0, 1.0
    ).args
    joined = LTXVConcatAVLatent.execute(made, {"samples": scene.audio}).args[0]
    scene.latent, scene.masks = joined["samples"], joined["noise_mask"]
    scene.entry.positive, scene.entry.negative = positive, negative
    model = local_model(scene.entry.model)
    plain = scene.sample(model)
    for found, expected in zip(scene.sample(scene.tiled(model=model)), plain, strict=True):
        assert error(found, expected) < 1e-5


def test_both_outputs_of_the_custom_sampler_keep_what_is_kept():
    scene = Scene()
    tree = half_kept(HEIGHT, WIDTH, PX)
    free = free_cells(tree, scene.video)
    model = scene.tiled(tree)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(scene.entry.positive, scene.entry.negative)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 3)
    noise = SimpleNamespace(
        seed=1, generate_noise=lambda latent: comfy.sample.prepare_noise(latent["samples"], 1)
    )
    sampler = comfy.samplers.sampler_object("euler")
    outputs = SamplerCustomAdvanced.execute(
        noise, guider, sampler, sigmas, {"samples": scene.latent}
    ).args
    for output in outputs:
        video, _ = output["samples"].unbind()
        assert torch.equal(video[..., ~free], scene.video[..., ~free])


def test_easy_cache_keeps_what_is_kept_and_skips_windows_as_it_skips_crops():
    scene = Scene()
    cached = EasyCacheNode.execute(scene.entry.model, 0.5, 0.0, 1.0, False).args[0]
    run = {**RUN, "steps": 6}
    for found, expected in zip(
        scene.sample(whole(scene, cached), **run), scene.sample(cached, **run), strict=True
    ):
        assert torch.equal(found, expected)
    tree = half_kept(HEIGHT, WIDTH, PX)
    free = free_cells(tree, scene.video)
    video, audio = scene.sample(scene.tiled(tree, cached), **run)
    assert video.isfinite().all() and audio.isfinite().all()
    assert torch.equal(video[..., ~free], scene.video[..., ~free])
    scene.latent, scene.masks = scene.video, None
    with pytest.raises(ValueError, match="EasyCache takes LTX-2's video only together"):
        sample(scene.entry, scene.video, model=scene.tiled(model=cached), **run)


def test_context_windows_are_refused_with_audio():
    scene = Scene(video=clean_latent((1, 128, 5, HEIGHT, WIDTH), 5))
    model = ContextWindowsManualNode.execute(
        scene.tiled(), 3, 1, "standard_static", 1, False, "pyramid", 2, False
    ).args[0]
    with pytest.raises(ValueError, match="Context windows cut the audio"):
        scene.sample(model)


def test_a_packed_latent_of_another_model_is_refused_in_words():
    scene = Scene()
    scene.entry.model.model.__class__ = type("Another", (type(scene.entry.model.model),), {})
    with pytest.raises(ValueError, match=r"several latents packed in one.*LTX-2's video"):
        scene.sample(scene.tiled())
