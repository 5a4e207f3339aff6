"""ControlNets that are patches of the model (Qwen's DiffSynth, Z-Image's Fun): their picture is cut
with the windows, on local networks as without windows."""

import comfy.ldm.lumina.controlnet
import comfy.ldm.lumina.model
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models as supported
import pytest
import torch
from comfy_extras import nodes_model_patch
from quadtree_pack.testing.local_models import local, made_local, own_token
from quadtree_pack.testing.support import Spy, error, free_cells, patched, tree_of
from quadtree_pack.testing.tiny_controls import SEED, FakeVAE, hint_image
from quadtree_pack.testing.tiny_models.building import Entry, build, cond, randomize, sample
from quadtree_pack.testing.tiny_models.transformers import Z_IMAGE, whole_text

HEIGHT, WIDTH, PX = 16, 32, 8
OPS = {"operations": comfy.ops.disable_weight_init, "device": "cpu", "dtype": torch.float32}


@pytest.fixture(autouse=True)
def control_networks_are_local(monkeypatch):
    """ComfyUI gives them no transformer options, where the models' attention is made local."""
    comfy.model_management.unload_all_models()  # clones of other tests, which are gone
    attention = comfy.ldm.lumina.model.optimized_attention_masked
    monkeypatch.setattr(
        comfy.ldm.lumina.model,
        "optimized_attention_masked",
        lambda *args, **options: own_token(attention, *args, **options),
    )


def model_patch(network):
    randomize(network, SEED, {"after_proj": 2.0, "output_proj": 2.0})
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(
        network.requires_grad_(False).eval().to(device),
        load_device=device,
        offload_device=torch.device("cpu"),
    )


def z_image():
    """ComfyUI spreads the control's layers over 30 of the model's: two are heard in sixteen."""
    model = build(supported.ZImage, {**Z_IMAGE, "n_layers": 16, "n_refiner_layers": 2})
    return made_local(
        Entry("z_image", model, lambda seed: cond(20, seed, attention_mask=whole_text(20)))
    )


def apply_diffsynth(model, image, mask=None, additional=0):
    network = nodes_model_patch.QwenImageBlockWiseControlNet(
        num_layers=2, dim=64, additional_in_dim=additional, **OPS
    )
    return nodes_model_patch.QwenImageDiffsynthControlnet().diffsynth_controlnet(
        model, model_patch(network), FakeVAE(video=True), image, 1.0, mask=mask
    )[0]


def apply_z_image(model, image, mask=None, inpaint=None, **version):
    network = comfy.ldm.lumina.controlnet.ZImage_Control(
        dim=256, n_heads=8, n_kv_heads=8, multiple_of=32, n_control_layers=2, **version, **OPS
    )
    return nodes_model_patch.ZImageFunControlnet().diffsynth_controlnet(
        model, model_patch(network), FakeVAE(), image, 1.0, inpaint_image=inpaint, mask=mask
    )[0]


def apply_z_image_2(model, image):
    return apply_z_image(model, image, additional_in_dim=17, refiner_control=True)


def apply_inpainting(model, image):
    mask = (hint_image(*image.shape[1:3], seed=8)[..., 0] > 0.5).float()
    inpaint = hint_image(*image.shape[1:3], seed=9)
    return apply_z_image(model, image, mask, inpaint, additional_in_dim=17, refiner_control=True)


CONTROLS = {
    "DiffSynth": (lambda: local("qwen_image"), apply_diffsynth),
    "Z-Image Fun": (z_image, apply_z_image),
    "Z-Image Fun 2": (z_image, apply_z_image_2),
    "Z-Image Fun inpainting": (z_image, apply_inpainting),
}


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize(
    ("canvas", "size"),
    [
        ((HEIGHT, WIDTH), (HEIGHT * PX, WIDTH * PX)),
        ((HEIGHT, WIDTH), (200, 400)),
        ((17, 35), (304, 312)),
    ],
    ids=["on the canvas", "another size", "odd canvas, another aspect"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_windows_get_their_part_of_the_picture(name, canvas, size, batch):
    make_entry, apply = CONTROLS[name]
    entry = make_entry()
    latent = entry.latent(*canvas, batch=batch)
    everything = tree_of([[1.0]], *canvas)
    control = apply(entry.model, hint_image(*size))
    plain = sample(entry, latent, model=control, steps=2)
    assert error(sample(entry, latent, steps=2), plain) > 0.05
    spy = Spy(control)
    after = patched(entry, everything, model=spy.model, method="MultiDiffusion")
    before = apply(patched(entry, everything, method="MultiDiffusion"), hint_image(*size))
    # Models pad an odd canvas, and each window at its edge, with cells from their other side.
    inside = ..., slice(canvas[0] // 2 * 2), slice(canvas[1] // 2 * 2)
    for model in (after, before, after):
        samples = sample(entry, latent, model=model, steps=2)
        assert error(samples[inside], plain[inside]) < 1e-5
    windows = {shape[-2:] for shape in spy.shapes} - {canvas}
    assert windows and max(shape[0] for shape in spy.shapes if shape[-2:] in windows) > batch
    assert torch.equal(sample(entry, latent, model=control, steps=2), plain)


@pytest.mark.parametrize("name", ["DiffSynth", "Z-Image Fun 2"])
def test_kept_regions_stay_and_the_picture_is_encoded_once(name, monkeypatch):
    make_entry, apply = CONTROLS[name]
    entry = make_entry()
    latent = entry.latent(HEIGHT, WIDTH)
    tree = tree_of([[0.0, 0.0, 1.0, 1.0]], HEIGHT, WIDTH)
    control = apply(entry.model, hint_image(200, 400))
    encoded = []
    encode = FakeVAE.encode
    monkeypatch.setattr(
        FakeVAE, "encode", lambda vae, image: encoded.append(image.shape) or encode(vae, image)
    )
    samples = sample(entry, latent, model=patched(entry, tree, model=control), steps=3)
    held = ~free_cells(tree, latent)
    assert torch.equal(samples[..., held], latent[..., held])
    assert set(encoded) == {(1, HEIGHT * PX, WIDTH * PX, 3)} and len(encoded) <= 2
