"""What cannot be done is refused, with what came, what fits and what to do."""

import logging

import comfy.sample
import comfy.samplers
import comfy.supported_models as supported
import pytest
import torch
from comfy.ldm.wan.model_multitalk import MultiTalkApplyModelWrapper
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_ar_video import SamplerARVideo
from quadtree_pack.sampling.model import Settings
from quadtree_pack.testing.support import (
    Spy,
    half_kept,
    patched,
    tree_of,
)
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import Entry, build, cond, sample
from quadtree_pack.testing.tiny_models.video import WAN
from quadtree_pack.tiled_diffusion import attach


def test_another_aspect_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="320 x 256 px, but the latent has 32 x 40 cells"):
        sample(entry, entry.latent(40, 32), model=patched(entry, half_kept(32, 40)))


def test_trees_that_do_not_match_the_batch_are_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="2 trees, one per image, but the latent batch has 3"):
        sample(
            entry, entry.latent(batch=3), model=patched(entry, half_kept(32, 40), half_kept(32, 40))
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tile_px": 8}, "tile_size 8 px is smaller than the 16 px that this model needs"),
        ({"tile_px": 64, "overlap_px": 48}, "tile_overlap 48 px .* at most 32 px"),
    ],
)
def test_sizes_that_do_not_fit_the_model_are_refused(settings, words):
    entry = entry_of("flux")
    with pytest.raises(ValueError, match=words):
        sample(entry, entry.latent(), model=patched(entry, half_kept(32, 40), **settings))


def gligen(model):
    class Gligen:
        def patch(self, x, extra_options):
            return x

    model = model.clone()
    model.model_options["transformer_options"]["patches"] = {"middle_patch": [Gligen().patch]}
    Gligen.patch.__qualname__ = "Gligen.patch"
    return model


def test_conditioning_that_would_go_to_every_window_uncut_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="cannot cut GLIGEN boxes"):
        sample(entry, entry.latent(), model=gligen(patched(entry, half_kept(32, 40))))


def test_the_first_frames_of_infinite_talk_are_refused_where_windows_are_cut():
    entry = entry_of("wan21_t2v")
    latent = entry.latent()
    model = entry.model.clone()
    first_frames = MultiTalkApplyModelWrapper(latent[:, :, :1])
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "MultiTalk_apply_model", first_frames)
    tree = tree_of([[1.0]], *latent.shape[-2:])
    plain = sample(entry, latent, model=model, steps=2)
    whole = patched(entry, tree, model=model, tile_px=0)
    assert torch.equal(sample(entry, latent, model=whole, steps=2), plain)
    with pytest.raises(ValueError, match="cannot cut InfiniteTalk's first frames into windows"):
        sample(entry, latent, model=patched(entry, tree, model=model), steps=2)


def test_a_clip_that_is_sampled_in_blocks_of_frames_is_refused():
    model = build(supported.WAN21_CausalAR_T2V, WAN)
    entry = Entry("wan21_causal", model, lambda seed: cond(16, seed), frames=2)
    latent = torch.zeros_like(entry.latent())
    sampler = SamplerARVideo.execute(1).args[0]
    sigmas = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "simple", steps=2
    )
    run = (1.0, sampler, sigmas, entry.positive, entry.negative, latent)
    noise = comfy.sample.prepare_noise(latent, 1)
    for tile_px in (128, 0):
        tiled = patched(entry, tree_of([[1.0]], *latent.shape[-2:]), tile_px=tile_px)
        with pytest.raises(ValueError, match="Sampler AR Video samples a clip in blocks"):
            comfy.sample.sample_custom(tiled, noise, *run, disable_pbar=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_latent_with_nan_is_refused_before_the_run(value):
    entry = entry_of("flux")
    latent = entry.latent()
    latent[0, 3, 1, 2] = value
    spy = Spy(patched(entry, half_kept(32, 40)))
    with pytest.raises(ValueError, match="latent that is sampled holds NaN"):
        sample(entry, latent, model=spy.model)
    assert spy.calls == 0


def test_an_empty_batch_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="must not be empty"):
        sample(entry, entry.latent()[:0], model=patched(entry, half_kept(32, 40)))


def test_a_scheduler_that_gives_no_numbers_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match=r"not all numbers: nan, 0\..*more steps"):
        sample(
            entry,
            entry.latent(),
            model=patched(entry, half_kept(32, 40)),
            steps=1,
            scheduler="kl_optimal",
        )


def test_a_clean_latent_of_another_size_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="clean_latent has shape"):
        sample(
            entry,
            entry.latent(),
            model=patched(entry, half_kept(32, 40), clean_latent=entry.latent(16, 20)),
        )


def test_audio_models_are_refused():
    entry = entry_of("flux")
    model = entry.model.clone()
    audio = type("Audio", (type(model.model.latent_format),), {"latent_dimensions": 1})()
    model.add_object_patch("latent_format", audio)
    with pytest.raises(ValueError, match="one-dimensional latents"):
        patched(entry, half_kept(32, 40), model=model)


def test_a_refusal_is_also_told_where_the_error_is_swallowed(caplog):
    entry = entry_of("flux")
    told = []
    model = attach(entry.model, (half_kept(32, 40),), Settings(), progress=told.append)
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="another aspect"):
        sample(entry, entry.latent(40, 32), model=model)
    assert caplog.text.count("another aspect") == 1
    assert len(told) == 1 and "another aspect" in told[0]


def test_a_run_without_a_step_reports_nothing(caplog):
    entry = entry_of("flux")
    latent = entry.latent()
    run = (1.0, comfy.samplers.ksampler("euler"), torch.tensor([1.0]))
    model = patched(entry, half_kept(32, 40))
    with caplog.at_level(logging.WARNING):
        comfy.sample.sample_custom(
            model, torch.randn_like(latent), *run, entry.positive, entry.negative, latent
        )
    assert "wrapper" not in caplog.text


def test_a_latent_much_smaller_than_the_quadtree_s_image_may_be_a_crop_and_is_told(caplog):
    entry = entry_of("flux")
    told = []
    for cells, warns in ((32, False), (16, True)):
        caplog.clear()
        model = attach(entry.model, [half_kept(32, 40)], Settings(tile_px=128), None, told.append)
        with caplog.at_level(logging.WARNING):
            sample(entry, entry.latent(cells, cells * 5 // 4), model=model, steps=2)
        assert ("UltimateSDUpscale" in caplog.text) == warns == ("Warning: the latent" in told[-1])
