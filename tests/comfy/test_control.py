"""Real ControlNets and a T2I-Adapter in windows, and core's multi-GPU sampling; that windows see
the right part of a hint is a column of docs/families.md."""

import copy
import gc
import threading
import weakref
from functools import cache

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import pytest
import torch
from comfy.controlnet import ControlBase
from comfy.patcher_extension import WrappersMP
from quadtree_pack.testing.support import (
    Spy,
    error,
    free_cells,
    half_kept,
    on_devices,
    patched,
    tree_of,
)
from quadtree_pack.testing.tiny_controls import (
    FakeVAE,
    flux_controlnet,
    hint_image,
    qwen_controlnet,
    sd3_controlnet,
    sd15_controlnet,
    sd15_t2i_adapter,
    sdxl_controlnet,
    with_control,
)
from quadtree_pack.testing.tiny_models import ZOO, entry_of
from quadtree_pack.testing.tiny_models.building import sample

RUN = {"steps": 3, "cfg": 3.0, "denoise": 0.6}


class CountingVAE(FakeVAE):
    def encode(self, pixels):
        self.calls = getattr(self, "calls", 0) + 1
        return super().encode(pixels)


CONTROLS = {
    "sd15": ("sd15", sd15_controlnet, None),
    "sd15 adapter": ("sd15", sd15_t2i_adapter, None),
    "sdxl": ("sdxl", sdxl_controlnet, None),
    "sd3": ("sd3", sd3_controlnet, CountingVAE),
    "flux": ("flux", flux_controlnet, None),
    "flux on latents": ("flux", lambda: flux_controlnet(latent_input=True), CountingVAE),
    "qwen": ("qwen_image", qwen_controlnet, lambda: CountingVAE(video=True)),
}


@pytest.fixture(autouse=True)
def nothing_is_loaded_before_a_test():
    comfy.model_management.unload_all_models()


@cache
def control_of(name):
    return CONTROLS[name][1]()


@pytest.fixture(scope="module", autouse=True)
def controls_are_freed_before_the_interpreter_ends():
    yield
    control_of.cache_clear()


def controlled(name, strength=1.0, **percents):
    family, _, vae = CONTROLS[name]
    vae = vae and vae()
    return with_control(
        entry_of(family), control_of(name), hint_image(250, 330), strength, vae=vae, **percents
    ), vae


def object_of(entry):
    return entry.positive[0][1]["control"]


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_the_same_in_one_window_and_keeps_what_is_kept(name):
    entry, _ = controlled(name)
    latent = entry.latent()
    whole = patched(entry, tree_of([[1.0]], 32, 40), tile_px=0)
    assert torch.equal(sample(entry, latent, model=whole, **RUN), sample(entry, latent, **RUN))
    tree = half_kept(32, 40)
    held = ~free_cells(tree, latent)
    one, many = (
        sample(entry, latent, model=patched(entry, tree, batch=batch), **RUN) for batch in (1, 4)
    )
    assert torch.equal(one[..., held], latent[..., held]) and error(many, one) < 1e-3
    deaf = sample(entry_of(CONTROLS[name][0]), latent, model=patched(entry, tree), **RUN)
    assert error(deaf, one) > 0.1


@pytest.mark.parametrize("name", CONTROLS)
def test_the_user_s_control_object_is_left_alone_also_after_an_error(name):
    entry, _ = controlled(name, end=0.5)
    control = object_of(entry)
    before = dict(vars(control))

    def broken(executor, *args, **kwargs):
        raise KeyError("broken")

    model = patched(entry, half_kept(32, 40))
    sample(entry, entry.latent(), model=model, **RUN)
    assert {key: value for key, value in vars(control).items() if value is not before[key]} == {}
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "broken", broken)
    with pytest.raises(KeyError, match="broken"):
        sample(entry, entry.latent(), model=model, **RUN)
    assert control.cond_hint is None and control.previous_controlnet is None


@pytest.mark.parametrize("name", ["sd3", "flux on latents", "qwen"])
def test_the_vae_encodes_a_hint_once_per_run(name):
    entry, vae = controlled(name)
    model = patched(entry, half_kept(32, 40), batch=1)
    for run in (1, 2):
        sample(entry, entry.latent(), model=model, **RUN)
        assert vae.calls == run


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "flux on latents", "qwen"])
def test_a_control_costs_what_the_windows_cost(name, monkeypatch):
    entry, _ = controlled(name)
    network = control_of(name).control_model
    cells = []
    forward = type(network).forward
    monkeypatch.setattr(
        type(network),
        "forward",
        lambda self, x, *a, **k: (
            cells.append(len(x) * x.shape[-1] * x.shape[-2]) or forward(self, x, *a, **k)
        ),
    )
    corner = tree_of([[1.0, 0.0, 0.0, 0.0, 0.0], *[[0.0] * 5] * 3], 32, 40)
    spy = Spy(patched(entry, corner))
    sample(entry, entry.latent(), model=spy.model, **RUN)
    assert 0 < sum(cells) == spy.cells < 0.3 * 3 * 2 * 32 * 40


@pytest.mark.parametrize("name", ["sd15", "sd15 adapter", "flux"])
def test_a_control_is_heard_in_its_own_steps_only(name):
    latent = entry_of(CONTROLS[name][0]).latent()
    runs = {}
    for start, end in ((0.15, 0.16), (0.0, 0.5), (0.0, 1.0)):
        entry, _ = controlled(name, start=start, end=end)
        runs[end] = sample(
            entry, latent, model=patched(entry, half_kept(32, 40)), **{**RUN, "denoise": 1.0}
        )
    entry = entry_of(CONTROLS[name][0])
    without = sample(
        entry, latent, model=patched(entry, half_kept(32, 40)), **{**RUN, "denoise": 1.0}
    )
    assert torch.equal(runs[0.16], without)  # between two steps
    assert not torch.allclose(runs[0.5], without) and not torch.allclose(runs[0.5], runs[1.0])


def test_a_chain_of_controls_is_heard_whole():
    entry, _ = controlled("sd15")
    both = with_control(entry, control_of("sd15 adapter"), hint_image(256, 320, seed=9), 0.7)
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40))
    alone, together = (sample(one, latent, model=model, **RUN) for one in (entry, both))
    assert error(alone, together) > 0.01
    whole = patched(entry, tree_of([[1.0]], 32, 40), tile_px=0)
    assert torch.equal(sample(both, latent, model=whole, **RUN), sample(both, latent, **RUN))


@pytest.mark.parametrize("name", ["sd15", "sd15 adapter", "flux on latents"])
@pytest.mark.parametrize("batch", [1, 3])
def test_each_image_of_a_batch_has_its_own_hint(name, batch):
    family, _, vae = CONTROLS[name]
    hints = torch.cat([hint_image(256, 320, seed) for seed in (5, 6)])
    plain = entry_of(family)
    latent = torch.cat([plain.latent()] * 2)
    noise = torch.cat([comfy.sample.prepare_noise(plain.latent(), 42)] * 2)
    tree = half_kept(32, 40)
    model = patched(
        plain, tree, batch=batch
    )  # one for all runs: where a VAE encodes, core loads again what was loaded
    entry = with_control(plain, control_of(name), hints, vae=vae and vae())
    both = sample(entry, latent, model=model, noise=noise, **RUN)
    for row, hint in enumerate(hints):
        entry = with_control(plain, control_of(name), hint[None], vae=vae and vae())
        alone = sample(entry, latent[:1], model=model, noise=noise[:1], **RUN)
        assert error(both[row : row + 1], alone) < 1e-3
    assert error(both[:1], both[1:]) > 0.05


def test_a_control_that_averages_over_the_image_is_asked_for_the_whole_image():
    shuffle = sd15_controlnet()
    shuffle.global_average_pooling = True
    entry = with_control(entry_of("sd15"), shuffle, hint_image(256, 320))
    seen = []
    forward = shuffle.control_model.forward
    shuffle.control_model.forward = lambda x, *args, **kwargs: (
        seen.append(x.shape[-2:]) or forward(x, *args, **kwargs)
    )
    samples = sample(entry, entry.latent(), model=patched(entry, half_kept(32, 40)), **RUN)
    assert set(seen) == {(32, 40)} and len(seen) == 3 and samples.isfinite().all()


def test_a_wrapper_that_looks_into_the_control_finds_the_whole_image_s():
    entry, _ = controlled("flux")
    seen = []
    tiled = patched(entry, tree_of([[1.0]], 32, 40), tile_px=0)
    ours = tiled.model_options["model_function_wrapper"]

    def look(apply_model, args):
        seen.append(args["c"]["control"]["input"][0].shape)
        return ours(apply_model, args)

    model = tiled.clone()
    model.set_model_unet_function_wrapper(look)
    assert torch.equal(
        sample(entry, entry.latent(), model=model, **RUN), sample(entry, entry.latent(), **RUN)
    )
    assert {shape[1] for shape in seen} == {16 * 20}


@pytest.mark.parametrize("method", ["get_control", "control_merge"])
def test_an_object_that_another_pack_gave_methods_of_its_own_is_asked_for_the_whole_image(method):
    """As Advanced-ControlNet does it: on the object, not on its class."""
    entry, _ = controlled("sd15")
    control = object_of(entry)
    own, seen = getattr(control, method), []
    setattr(control, method, lambda *args, **kwargs: seen.append(1) or own(*args, **kwargs))
    latent = entry.latent()
    whole = patched(entry, tree_of([[1.0]], 32, 40), tile_px=0)
    assert torch.equal(sample(entry, latent, model=whole, **RUN), sample(entry, latent, **RUN))
    seen.clear()
    one, many = (
        sample(entry, latent, model=patched(entry, half_kept(32, 40), batch=batch), **RUN)
        for batch in (1, 4)
    )
    assert error(many, one) < 1e-3 and len(seen) == 6


@pytest.mark.parametrize(("steps", "start", "end"), [(10, 0.0, 0.3), (4, 0.5, 1.0), (4, 0.0, 0.25)])
def test_a_step_on_the_very_end_of_a_control_s_range_is_due_as_core_says(
    steps, start, end, monkeypatch
):
    entry, _ = controlled("flux", start=start, end=end)
    network = control_of("flux").control_model
    sigmas, forward = [], network.forward

    def seeing(x, *args, timesteps, **kwargs):
        sigmas.append(round(float(timesteps[0]), 5))
        return forward(x, *args, timesteps=timesteps, **kwargs)

    monkeypatch.setattr(network, "forward", seeing)
    run = {"steps": steps, "cfg": 1.0, "scheduler": "simple"}
    sample(entry, entry.latent(), **run)
    plain = sorted(set(sigmas))
    sigmas.clear()
    sample(entry, entry.latent(), model=patched(entry, tree_of([[1.0]], 32, 40)), **run)
    assert sorted(set(sigmas)) == plain and plain


@pytest.mark.parametrize("taken", [dict, copy.copy, copy.deepcopy, lambda control: control.copy()])
def test_a_wrapper_may_copy_and_change_the_control(taken):
    entry, _ = controlled("flux")
    latent = entry.latent()

    def doubled(apply_model, args):
        control = taken(args["c"]["control"])
        control["input"] = [2 * value for value in control["input"]]
        return {**args, "c": {**args["c"], "control": control}}

    def before(wrapper):
        return lambda apply_model, args: wrapper(apply_model, doubled(apply_model, args))

    plain = entry.model.clone()
    plain.set_model_unet_function_wrapper(
        before(lambda apply_model, args: apply_model(args["input"], args["timestep"], **args["c"]))
    )
    ours = patched(entry, tree_of([[1.0]], 32, 40), tile_px=0)
    ours.set_model_unet_function_wrapper(before(ours.model_options["model_function_wrapper"]))
    assert torch.equal(
        sample(entry, latent, model=ours, **RUN), sample(entry, latent, model=plain, **RUN)
    )


# ---- several GPUs


@pytest.mark.parametrize("name", ["flux", "sd15"])
def test_windows_of_a_step_are_spread_over_devices_and_nothing_else_changes(name):
    entry = entry_of(name)
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40), overlap_px=0, batch=1)
    expected = sample(entry, latent, model=model, **RUN)
    seen = []

    def look(executor, *args, **kwargs):
        seen.append(threading.current_thread().name)
        return executor(*args, **kwargs)

    spread = on_devices(model, 3, ZOO[name])
    spread.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "look", look)
    assert torch.equal(sample(entry, latent, model=spread, **RUN), expected)
    counts = [seen.count(thread) for thread in set(seen)]
    assert len(counts) == 3


def test_a_control_has_its_own_clone_on_every_device():
    entry, _ = controlled("sd15")
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40), batch=1)
    expected = sample(entry, latent, model=model, **RUN)
    assert (
        error(sample(entry, latent, model=on_devices(model, 2, ZOO["sd15"]), **RUN), expected)
        < 1e-5
    )


def test_an_error_on_one_device_is_raised_and_the_next_run_is_clean():
    entry = entry_of("flux")
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40), batch=1)
    expected = sample(entry, latent, model=model, **RUN)
    spread = on_devices(model, 2, ZOO["flux"])
    broken = spread.clone()
    calls = []

    def fail(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyError("broken")
        return executor(*args, **kwargs)

    broken.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "fail", fail)
    with pytest.raises(KeyError, match="broken"):
        sample(entry, latent, model=broken, **RUN)
    assert torch.equal(sample(entry, latent, model=spread, **RUN), expected)


def test_a_later_wrapper_s_own_model_function_is_asked():
    entry = entry_of("flux")
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40), batch=1)
    ours = model.model_options["model_function_wrapper"]
    model.set_model_unet_function_wrapper(
        lambda apply_model, args: ours(lambda *call, **c: 0.5 * apply_model(*call, **c), args)
    )
    assert torch.equal(
        sample(entry, latent, model=on_devices(model, 2, ZOO["flux"]), **RUN),
        sample(entry, latent, model=model, **RUN),
    )


def test_out_of_memory_on_a_device_frees_what_the_failed_call_held():
    entry = entry_of("flux")
    held, alive = [], []

    class Large:
        pass

    def limited(executor, noisy, *args, **kwargs):
        alive.extend(thing() is not None for thing in held)
        if not held:
            large = Large()
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("simulated")
        return executor(noisy, *args, **kwargs)

    model = on_devices(patched(entry, half_kept(32, 40), batch=2), 2, ZOO["flux"])
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "limited", limited)
    gc.collect()
    gc.disable()
    try:
        sample(entry, entry.latent(), model=model, steps=2)
    finally:
        gc.enable()
    assert (
        held and alive and sum(alive) <= 3
    )  # the other device may be at work still while the first fails


class Marking(ControlBase):
    """A control of another pack that speaks through the options of a call."""

    def get_control(self, noisy, sigma, cond, conds, options):
        options["marked"] = True

    def copy(self):
        return Marking()

    def get_models(self):
        return []


@pytest.mark.parametrize("batch", [1, 4])
def test_what_another_pack_s_control_marks_in_a_call_reaches_every_window(batch):
    entry = copy.copy(entry_of("flux"))
    entry.positive = [[entry.positive[0][0], {**entry.positive[0][1], "control": Marking()}]]
    marks = []

    def note(executor, *args, **options):
        found = next(value for value in args if isinstance(value, dict) and "sigmas" in value)
        marks.append(found.get("marked"))
        return executor(*args, **options)

    tiled = patched(entry, tree_of([[1.0]], 32, 40), method="MultiDiffusion", batch=batch)
    tiled.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "note", note)
    sample(entry, entry.latent(), model=tiled, steps=2)
    assert len(marks) >= 4 and all(marks)
