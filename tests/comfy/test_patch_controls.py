"""Controls that are patches of the model (Qwen's DiffSynth, Z-Image's Fun, Wan's Uni3C, Anima's
LLLite, SUPIR): their picture is cut with the windows, on local networks as without windows."""

import threading
from copy import copy
from functools import partial
from types import SimpleNamespace

import comfy.ldm.anima.lllite
import comfy.ldm.lumina.controlnet
import comfy.ldm.lumina.model
import comfy.ldm.modules.attention
import comfy.ldm.supir.supir_modules
import comfy.ldm.wan.model
import comfy.ldm.wan.uni3c
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models as supported
import pytest
import torch
from comfy_extras import nodes_model_patch
from quadtree_pack.testing.local_models import local, localize, made_local, own_token
from quadtree_pack.testing.support import (
    Spy,
    error,
    forget_lost_models,
    free_cells,
    on_devices,
    patched,
    tree_of,
)
from quadtree_pack.testing.tiny_controls import SEED, FakeVAE, hint_image
from quadtree_pack.testing.tiny_models import ZOO
from quadtree_pack.testing.tiny_models.building import (
    TOKENS,
    Entry,
    build,
    cond,
    gauss,
    randomize,
    sample,
)
from quadtree_pack.testing.tiny_models.transformers import Z_IMAGE, whole_text
from quadtree_pack.testing.tiny_models.unets import SDXL

HEIGHT, WIDTH, PX = 16, 32, 8
OPS = {"operations": comfy.ops.disable_weight_init, "device": "cpu", "dtype": torch.float32}


@pytest.fixture(autouse=True)
def control_networks_are_local(monkeypatch):
    """ComfyUI gives them no transformer options, where the models' attention is made local."""
    comfy.model_management.unload_all_models()
    forget_lost_models()
    for module, name in (
        (comfy.ldm.lumina.model, "optimized_attention_masked"),
        (comfy.ldm.wan.model, "optimized_attention"),
        (comfy.ldm.modules.attention, "optimized_attention"),
        (comfy.ldm.supir.supir_modules, "optimized_attention"),
    ):
        monkeypatch.setattr(module, name, partial(own_token, getattr(module, name)))


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


class ClipVAE(FakeVAE):
    """Encodes every frame on its own, as one video [1, C, T, h, w]."""

    def temporal_compression_decode(self):
        return None

    def encode(self, pixels):
        return super().encode(pixels).movedim(0, 1)[None]


def apply_uni3c(model, image, start=0.0, end=1.0):
    network = comfy.ldm.wan.uni3c.WanUni3CControlnet(
        conv_out_dim=32, dim=24, ffn_dim=48, num_heads=2, num_layers=2, mid_channels=8,
        time_embed_dim=64, out_proj_dim=64, **OPS,
    )  # fmt: skip
    clip = torch.cat([image, image.flip(1), image.flip(2)])
    return nodes_model_patch.WanUni3CControlnetApply().apply_patch(
        model, model_patch(network), ClipVAE(), clip, 1.0, start, end
    )[0]


def lllite_weights(channels, width=64, emb=12):
    """The shapes that a checkpoint has: which blocks it speaks to is read from its names."""
    weights = {
        "lllite_conditioning1.conv1.weight": (8, channels, 4, 4),
        "lllite_conditioning1.conv3.weight": (16, 8, 4, 4),
        "lllite_conditioning1.proj.weight": (emb, 16, 1, 1),
        "lllite_conditioning1.resblocks.0.norm1.weight": (16,),
        "lllite_conditioning1.aspp.proj.0.weight": (16,),
    }
    for block in range(2):
        for target in ("self_attn_q_proj", "self_attn_v_proj", "cross_attn_q_proj", "mlp_layer1"):
            name = f"lllite_dit_blocks_{block}_{target}"
            weights[f"{name}.down.weight"] = (8, width)
            weights[f"{name}.cond_to_film.weight"] = (16, emb)
    return {name: torch.empty(shape) for name, shape in weights.items()}


def apply_lllite(model, image, mask=None, start=0.0, end=1.0):
    """Its encoder looks at the whole image: it has norms over it, and pools it."""
    weights = lllite_weights(3 if mask is None else 4)
    network = comfy.ldm.anima.lllite.AnimaLLLite(weights, {}, **OPS)
    return nodes_model_patch.AnimaLLLiteApply().apply_patch(
        model, model_patch(network), image, 1.0, start, end, mask
    )[0]


def apply_lllite_inpainting(model, image):
    mask = (hint_image(*image.shape[1:3], seed=8)[..., 0] > 0.5).float()
    return apply_lllite(model, image, mask)


def supir_network():
    """Of the shape that SUPIR has, for the tiny SDXL: one residual block on each level."""
    modules = comfy.ldm.supir.supir_modules
    network = torch.nn.Module()
    network.control_model = modules.GLVControl(
        model_channels=32, num_res_blocks=1, num_head_channels=32, transformer_depth=(0, 1, 2),
        context_dim=TOKENS, adm_in_channels=SDXL["adm_in_channels"], **OPS,
    )  # fmt: skip
    # From the last output block to the middle: channels of the control, the skip, the UNet.
    widths = [(32, 32, 32), (32, 32, 64), (32, 32, 64), (64, 64, 128), (64, 64, 128)]
    widths += [(128, 128, 128), (128, 128, 0)]
    adapters = [modules.ZeroSFT(control, skip, unet, **OPS) for control, skip, unet in widths]
    for at, control, unet in ((4, 64, 128), (2, 32, 64)):  # before the UNet enlarges its map
        adapters.insert(at, modules.ZeroCrossAttn(control, unet, **OPS))
    network.project_modules = torch.nn.ModuleList(adapters)
    return network


def apply_supir(model, image):
    network = model_patch(supir_network())
    localize(network.model)
    return nodes_model_patch.SUPIRApply.execute(
        model=model, model_patch=network, vae=FakeVAE(4), image=image, strength_start=1.0,
        strength_end=0.8, restore_cfg=0.0, restore_cfg_s_tmin=0.05,
    ).args[0]  # fmt: skip


CONTROLS = {
    "DiffSynth": (lambda: local("qwen_image"), apply_diffsynth),
    "Z-Image Fun": (z_image, apply_z_image),
    "Z-Image Fun 2": (z_image, apply_z_image_2),
    "Z-Image Fun inpainting": (z_image, apply_inpainting),
    "Uni3C": (lambda: local("wan21_t2v"), apply_uni3c),
    "LLLite": (lambda: local("anima"), apply_lllite),
    "LLLite inpainting": (lambda: local("anima"), apply_lllite_inpainting),
    "SUPIR": (lambda: local("sdxl"), apply_supir),
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
    if name == "SUPIR":  # whose image has to have the latent's size
        size = canvas[0] * PX, canvas[1] * PX
    control = apply(entry.model, hint_image(*size))
    plain = sample(entry, latent, model=control, steps=2)
    assert error(sample(entry, latent, steps=2), plain) > 0.05
    spy = Spy(control)
    settings = {"method": "MultiDiffusion", "batch": 12}  # windows of several frames count more
    after = patched(entry, everything, model=spy.model, **settings)
    before = apply(patched(entry, everything, **settings), hint_image(*size))
    # Models pad an odd canvas, and each window at its edge, with cells from their other side.
    inside = ..., slice(canvas[0] // 2 * 2), slice(canvas[1] // 2 * 2)
    for model in (after, before, after):
        samples = sample(entry, latent, model=model, steps=2)
        assert error(samples[inside], plain[inside]) < 1e-5
    windows = {shape[-2:] for shape in spy.shapes} - {canvas}
    assert windows and max(shape[0] for shape in spy.shapes if shape[-2:] in windows) > batch
    assert torch.equal(sample(entry, latent, model=control, steps=2), plain)


# What a control evaluates in each of its calls, in cells, by a method of its network.
PATCH = 4  # cells
NETWORKS = {
    "DiffSynth": (
        nodes_model_patch.QwenImageBlockWiseControlNet,
        "control_block",
        lambda img, *_: img[..., 0].numel() * PATCH,
    ),
    "Z-Image Fun": (
        comfy.ldm.lumina.controlnet.ZImage_Control,
        "forward_control_block",
        lambda _, features, *__: features[..., 0].numel() * PATCH,
    ),
    "Uni3C": (
        comfy.ldm.wan.uni3c.WanUni3CControlnet,
        "process_input",
        lambda video: len(video) * video[0, 0, 0].numel(),
    ),
    "LLLite": (
        comfy.ldm.anima.lllite.AnimaLLLiteModule,
        "forward",
        lambda x, *_: len(x) * x[0, ..., 0].numel() * PATCH,
    ),
    "SUPIR": (
        comfy.ldm.supir.supir_modules.GLVControl,
        "forward",
        lambda hint, *_: len(hint) * hint[0, 0].numel(),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_control_costs_what_the_windows_cost(name, monkeypatch):
    make_entry, apply = CONTROLS[name]
    entry = make_entry()
    latent = entry.latent(HEIGHT, WIDTH)
    network, method, cells_of = NETWORKS[name]
    evaluate = getattr(network, method)
    evaluated = []

    def count(self, *args, **options):
        evaluated.append(cells_of(*args))
        return evaluate(self, *args, **options)

    monkeypatch.setattr(network, method, count)
    spent = []
    for tree in (tree_of([[1.0]], HEIGHT, WIDTH), tree_of([[1.0, 0.0, 0.0, 0.0]], HEIGHT, WIDTH)):
        for whole in (True, False):
            evaluated.clear()
            spy = Spy(apply(entry.model, hint_image(HEIGHT * PX, WIDTH * PX)))
            settings = {"tile_px": WIDTH * PX if whole else 128}
            sample(entry, latent, model=patched(entry, tree, model=spy.model, **settings), steps=2)
            spent.append(sum(evaluated) / spy.cells)
    assert spent[0] > 0 and set(spent) == {spent[0]}


@pytest.mark.parametrize("name", ["Uni3C", "LLLite"])
def test_windows_hear_a_control_at_its_steps_only(name):
    make_entry, apply = CONTROLS[name]
    entry = make_entry()
    latent = entry.latent(HEIGHT, WIDTH)
    image = hint_image(HEIGHT * PX, WIDTH * PX)
    control = apply(entry.model, image, start=0.0, end=0.5)
    plain = sample(entry, latent, model=control, steps=4)
    for other in (entry.model, apply(entry.model, image)):
        assert error(sample(entry, latent, model=other, steps=4), plain) > 0.01
    tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=control)
    assert error(sample(entry, latent, model=tiled, steps=4), plain) < 1e-5


def test_a_prompt_for_an_area_meets_a_control_as_without_windows():
    entry = copy(local("anima"))
    latent = entry.latent(HEIGHT, WIDTH)
    area = {"area": (HEIGHT, WIDTH // 2, 0, WIDTH // 4), "strength": 1.0}
    entry.positive = entry.positive + [
        [text, {**values, **area}] for text, values in entry.make_cond(21)
    ]
    control = apply_lllite(entry.model, hint_image(HEIGHT * PX, WIDTH * PX))
    plain = sample(entry, latent, model=control, steps=2, cfg=3.0)
    tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=control, tile_px=64)
    assert error(sample(entry, latent, model=tiled, steps=2, cfg=3.0), plain) < 1e-5


def test_an_image_of_supir_that_is_not_the_latents_is_refused_in_words():
    entry = local("sdxl")
    control = apply_supir(entry.model, hint_image(200, 400))
    tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=control)
    with pytest.raises(ValueError, match="SUPIR's image gives 50 x 25 latent cells"):
        sample(entry, entry.latent(HEIGHT, WIDTH), model=tiled, steps=2)


@pytest.mark.parametrize("name", ["DiffSynth", "Z-Image Fun 2", "Uni3C"])
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
    frames = 3 if name == "Uni3C" else 1
    assert set(encoded) == {(frames, HEIGHT * PX, WIDTH * PX, 3)} and len(encoded) <= 2


class StyleNetwork(torch.nn.Module):
    """USO's projector has no class of its own that could be told apart from others'."""

    def __init__(self):
        super().__init__()
        self.projector = torch.nn.Linear(64, 64)

    def forward(self, hidden):
        return self.projector(hidden.mean(0))


def apply_uso(model, image):
    """Its style is seen whole, by every window."""
    states = SimpleNamespace(
        all_hidden_states=gauss((1, 27, 6, 64), 1), penultimate_hidden_states=gauss((1, 6, 64), 2)
    )
    return nodes_model_patch.USOStyleReference().apply_patch(
        model, model_patch(StyleNetwork()), states
    )[0]


SPREAD = {  # how a control is applied, to what, and what of its network is called
    **{name: (*CONTROLS[name], *NETWORKS[name][:2]) for name in NETWORKS},
    "Z-Image Fun 2": (*CONTROLS["Z-Image Fun 2"], *NETWORKS["Z-Image Fun"][:2]),
    "SUPIR's adapters": (
        *CONTROLS["SUPIR"],
        comfy.ldm.supir.supir_modules.ZeroSFT,
        "forward",
    ),
    "USO": (lambda: local("flux"), apply_uso, StyleNetwork, "forward"),
}
MAKE = {  # of the model on the other devices
    "DiffSynth": ZOO["qwen_image"],
    "Z-Image Fun": z_image,
    "Z-Image Fun 2": z_image,
    "Uni3C": ZOO["wan21_t2v"],
    "LLLite": ZOO["anima"],
    "SUPIR": lambda: made_local(ZOO["sdxl"]()),
    "SUPIR's adapters": lambda: made_local(ZOO["sdxl"]()),
    "USO": ZOO["flux"],
}


@pytest.mark.parametrize("name", SPREAD)
def test_several_devices_have_a_network_each(name, monkeypatch):
    make_entry, apply, network, method = SPREAD[name]
    entry = make_entry()
    latent = entry.latent(HEIGHT, WIDTH)
    control = apply(entry.model, hint_image(HEIGHT * PX, WIDTH * PX))
    model = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=control, batch=1)
    run = {"steps": 2, "cfg": 1.0}  # USO takes one row at a time
    expected = sample(entry, latent, model=model, **run)
    evaluate, heard, both = getattr(network, method), {}, threading.Barrier(2, timeout=60)

    def note(self, *args, **options):
        thread = threading.current_thread().name
        if thread not in heard:
            heard[thread] = set()
            both.wait()  # fails where one evaluates everything
        heard[thread].add(id(self))
        return evaluate(self, *args, **options)

    monkeypatch.setattr(network, method, note)
    spread = on_devices(model, 2, MAKE[name])
    assert error(sample(entry, latent, model=spread, **run), expected) < 1e-5
    here, there = heard.values()
    assert len(here) == len(there) and here.isdisjoint(there)
