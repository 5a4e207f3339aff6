"""The templates of ComfyUI's Templates dialog, written into example_workflows.

`python dev.py templates` writes them, with the nodes of a real server. Their names begin with the
word that a user searches for, and have no blanks, so that an address may name them:
?template=NAME&source=comfyui-quadtree-diffusion. The files that they offer for download are those
that ComfyUI's own templates use.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .workflows import Model, Output, Workflow

FOLDER = "example_workflows"
HUB = "https://huggingface.co/"
ORG = f"{HUB}Comfy-Org/"
Z_IMAGE = f"{ORG}z_image_turbo/resolve/main/split_files/"
QWEN = f"{ORG}Qwen-Image_ComfyUI/resolve/main/split_files/"
WAN = f"{ORG}Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/"
FLUX_TEXT = f"{HUB}comfyanonymous/flux_text_encoders/resolve/main/"
MODELS = {
    "z-image": Model(
        f"{Z_IMAGE}diffusion_models/z_image_turbo_bf16.safetensors", "diffusion_models"
    ),
    "z-image text": Model(f"{Z_IMAGE}text_encoders/qwen_3_4b.safetensors", "text_encoders"),
    "z-image vae": Model(f"{Z_IMAGE}vae/ae.safetensors", "vae"),
    "qwen": Model(
        f"{QWEN}diffusion_models/qwen_image_2512_fp8_e4m3fn.safetensors", "diffusion_models"
    ),
    "qwen text": Model(
        f"{QWEN}text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors", "text_encoders"
    ),
    "qwen vae": Model(f"{QWEN}vae/qwen_image_vae.safetensors", "vae"),
    "qwen lora": Model(
        f"{HUB}lightx2v/Qwen-Image-2512-Lightning/resolve/main/"
        "Qwen-Image-2512-Lightning-4steps-V1.0-fp32.safetensors",
        "loras",
    ),
    "flux": Model(f"{ORG}flux1-dev/resolve/main/flux1-dev.safetensors", "diffusion_models"),
    "flux fill": Model(
        f"{ORG}flux1-dev/resolve/main/split_files/diffusion_models/flux1-fill-dev.safetensors",
        "diffusion_models",
    ),
    "clip l": Model(f"{FLUX_TEXT}clip_l.safetensors", "text_encoders"),
    "t5": Model(f"{FLUX_TEXT}t5xxl_fp16.safetensors", "text_encoders"),
    "flux vae": Model(
        f"{ORG}Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors", "vae"
    ),
    "sdxl": Model(
        f"{HUB}stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
        "checkpoints",
    ),
    "sd15": Model(
        f"{ORG}stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        "checkpoints",
    ),
    "tile": Model(
        f"{HUB}comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/"
        "control_v11f1e_sd15_tile_fp16.safetensors",
        "controlnet",
    ),
    "esrgan": Model(
        f"{ORG}Real-ESRGAN_repackaged/resolve/main/RealESRGAN_x4plus.safetensors",
        "upscale_models",
    ),
    "wan": Model(
        f"{WAN}diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
        "diffusion_models",
    ),
    "wan lora": Model(
        f"{WAN}loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors", "loras"
    ),
    "wan vae": Model(f"{WAN}vae/wan_2.1_vae.safetensors", "vae"),
    "wan text": Model(
        f"{ORG}Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/text_encoders/"
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        "text_encoders",
    ),
    "gemma 4": Model(
        f"{ORG}gemma-4/resolve/main/text_encoders/gemma4_e4b_it_fp8_scaled.safetensors",
        "text_encoders",
    ),
    "seedvr2": Model(
        f"{ORG}SeedVR2/resolve/main/diffusion_models/seedvr2_3b_int8_convrot.safetensors",
        "diffusion_models",
    ),
    "seedvr2 vae": Model(f"{ORG}SeedVR2/resolve/main/vae/seedvr2_ema_vae_fp16.safetensors", "vae"),
}
PHOTO = "a sharp, detailed photograph"
FLAWS = "blurry, low quality, jpeg artifacts"
FILM = "a sharp, detailed film shot"
DESCRIBE = "Describe this part of a photograph in one sentence: what it shows and of what material."
RESULT_PX = 720


# --- Parts that templates share -------------------------------------------------------------------


def load_parts(flow: Workflow, model: str, vae: str) -> tuple[Output, Output]:
    """Load a diffusion model and a VAE from files of their own."""
    flow.group(0, "Models")
    (loaded,) = flow.add("UNETLoader", unet_name=MODELS[model])
    (decoder,) = flow.add("VAELoader", vae_name=MODELS[vae])
    return loaded, decoder


def load_flux(flow: Workflow, model: str) -> tuple[Output, Output, Output]:
    loaded, vae = load_parts(flow, model, "flux vae")
    files = {"clip_name1": MODELS["clip l"], "clip_name2": MODELS["t5"]}
    (clip,) = flow.add("DualCLIPLoader", type="flux", **files)
    return loaded, clip, vae


def load_z_image(flow: Workflow) -> tuple[Output, Output, Output]:
    loaded, vae = load_parts(flow, "z-image", "z-image vae")
    (clip,) = flow.add("CLIPLoader", clip_name=MODELS["z-image text"], type="lumina2")
    (shifted,) = flow.add("ModelSamplingAuraFlow", model=loaded, shift=3.0)
    return shifted, clip, vae


def load_checkpoint(flow: Workflow, model: str) -> tuple[Output, ...]:
    """Load model, CLIP and VAE of a checkpoint."""
    flow.group(0, "Model")
    return flow.add("CheckpointLoaderSimple", ckpt_name=MODELS[model])


def load_image(flow: Workflow, group: str, title: str = "") -> tuple[Output, ...]:
    flow.group(0, group)
    return flow.add("LoadImage", image="example.png", height=340, title=title)


def enlarge(flow: Workflow, image: Output, by: float = 2.0, title: str = "") -> Output:
    title = title or "Twice the size"
    return flow.add(
        "ImageScaleBy", image=image, upscale_method="lanczos", scale_by=by, title=title
    )[0]


def write_prompts(flow: Workflow, clip: Output, text: str = PHOTO) -> dict[str, Output]:
    """Write what to show and what to avoid, for KSampler's inputs."""
    positive = write_prompt(flow, clip, text)
    words = {"title": "What to avoid", "color": "negative", "height": 130}
    (negative,) = flow.add("CLIPTextEncode", clip=clip, text=FLAWS, **words)
    return {"positive": positive, "negative": negative}


def write_guided_prompt(
    flow: Workflow, clip: Output, guidance: float, text: str = PHOTO
) -> dict[str, Output]:
    """Write the prompt of a Flux model, which is sampled without a negative one."""
    plain = write_prompt(flow, clip, text)
    (positive,) = flow.add("FluxGuidance", conditioning=plain, guidance=guidance)
    return {"positive": positive, "negative": zero_out(flow, plain)}


def write_prompt(flow: Workflow, clip: Output, text: str = PHOTO) -> Output:
    flow.group(1, "Prompt")
    words = {"title": "What the image shows", "color": "positive", "height": 150}
    return flow.add("CLIPTextEncode", clip=clip, text=text, **words)[0]


def zero_out(flow: Workflow, conditioning: Output) -> Output:
    return flow.add("ConditioningZeroOut", conditioning=conditioning)[0]


def choose(flow: Workflow, image: Output, **values: Any) -> Output:
    """Add Quadtree Visualizer, and return its quadtree."""
    flow.group(1, "Where to change how much")
    return flow.add("QuadtreeVisualizer", height=830, color="own", image=image, **values)[1]


def refine(flow: Workflow, tree: Output, vae: Output, image: Output, **sampler: Any) -> Output:
    """Sample the image, encoded here, with a model that follows the quadtree, and decode it."""
    return decode(flow, resample(flow, tree, vae, image, **sampler), vae)


def refine_in_parts(
    flow: Workflow, tree: Output, vae: Output, image: Output, **sampler: Any
) -> Output:
    """Refine an image with a VAE that decodes only what has changed, into the image itself."""
    samples = resample(flow, tree, vae, image, **sampler)
    links = {"samples": samples, "vae": vae, "quadtree": tree, "original": image}
    return flow.add("QuadtreeVAEDecode", color="own", **links)[0]


def resample(flow: Workflow, tree: Output, vae: Output, image: Output, **sampler: Any) -> Output:
    model = patch(flow, tree, sampler.pop("model"))
    (latent,) = flow.add("VAEEncodeTiled", pixels=image, vae=vae, tile_size=1024)
    return sample(flow, model, latent, **sampler)


def patch(flow: Workflow, tree: Output, model: Output) -> Output:
    flow.group(2, "Refine")
    return flow.add("QuadtreeDiffusion", color="own", model=model, quadtree=tree)[0]


def sample(flow: Workflow, model: Output, latent: Output, **sampler: Any) -> Output:
    links = {"model": model, "latent_image": latent}
    return flow.add("KSampler", height=480, seed=42, **links, **sampler)[0]


def decode(flow: Workflow, samples: Output, vae: Output) -> Output:
    return flow.add("VAEDecodeTiled", samples=samples, vae=vae, tile_size=1024)[0]


def compose(flow: Workflow, tree: Output, original: Output, refined: Output) -> Output:
    """Put the original's own pixels back where the quadtree keeps them."""
    images = {"original": original, "refined": refined}
    return flow.add("QuadtreeComposite", color="own", quadtree=tree, **images)[0]


def show(flow: Workflow, before: Output, after: Output) -> None:
    """Save the result and compare it with what it was."""
    flow.group(3, "Result")
    flow.add("SaveImage", images=after, filename_prefix=prefix(flow), height=RESULT_PX)
    compare(flow, before, after)


def compare(flow: Workflow, before: Output, after: Output) -> None:
    title = "Before and after"
    flow.add("ImageCompare", image_a=before, image_b=after, height=RESULT_PX, title=title)


def prefix(flow: Workflow) -> str:
    """Return the beginning of the names of the files that a template saves."""
    return flow.name.lower().replace("-", "_").replace("quadtree_", "quadtree/", 1)


def upscale(flow: Workflow, vae: Output, model: Output, enlarged: Output, **parts: Any) -> Output:
    """Refine an enlarged image by the quadtree of the small one, show the result, and return the
    quadtree."""
    tree = choose(flow, parts.pop("image"))
    refined = refine(flow, tree, vae, enlarged, model=model, **parts)
    show(flow, enlarged, compose(flow, tree, enlarged, refined))
    return tree


def describe_tree(flow: Workflow, tree: Output, steps: int) -> None:
    """Show as text what a quadtree holds, and what a run of so many steps costs with it."""
    flow.group(0, "What is kept, and what it costs")
    text, *_ = flow.add("QuadtreeInfo", color="own", quadtree=tree, steps=steps)
    flow.add("PreviewAny", source=text, height=480)


# --- The templates --------------------------------------------------------------------------------

KEPT = """\
Detail (red tiles) is drawn anew, up to the **denoise of KSampler**, which is the ceiling. Calm \
regions (blue tiles) keep the pixels of the enlarged image, and cost nothing.

*coverage* in **Quadtree Visualizer** is the share of the detail that is refined: 0.98 for more, \
0.8 for less. Its panel shows the tiles and the price before anything is queued."""
TOLD = "After a run, **Quadtree Info** tells the same in numbers."
IN_PARTS = """\
**Quadtree VAE Decode** decodes only what has changed, and keeps the image's pixels elsewhere."""
FACE = """\
Right-click **Load Image**, choose *Open in MaskEditor* and paint over the face: inverted, the \
mask is 0 there, so **Quadtree Composite** returns the face pixel for pixel. Elsewhere, detail \
(red tiles) is refined and calm regions (blue tiles) are kept.

Without a painted mask, every region gets the denoise of its tile."""
INPAINT = """\
Right-click **Load Image**, choose *Open in MaskEditor* and paint over what is to be drawn anew; \
then describe it in the prompt. Only windows that touch the mask are evaluated, at full \
resolution, so the cost depends on the size of the painted area, not on that of the image.

*mask_mode* is **replace**: the mask alone says what changes, and **Quadtree Composite** returns \
everything else pixel for pixel. Until a mask is painted, nothing changes."""
TILE = """\
A tile ControlNet holds the picture together, so detail (red tiles) may be drawn anew at a high \
**denoise** in KSampler, the ceiling for all tiles. Its hint is cut with the windows; calm \
regions (blue tiles) keep their pixels and cost nothing.

Any checkpoint of SD1.5 fits. *strength* of Apply ControlNet says how close to stay."""
REGIONS = """\
**Quadtree Crops** cuts what is refined into a few large crops, **Generate Text** describes each, \
and **Quadtree Prompts** gives each region its own prompt: a window evaluates only the prompts \
that it touches. Any other captioner that takes an image list fits.

*What the image shows* is the prompt of the rest. To write all of them yourself, collect CLIP Text \
Encode nodes with Create List, in the order of the crops."""
CLIP = """\
All frames share one tree by their detail and motion (*batch* of **Quadtree Visualizer** is \
clip): the still background (blue tiles) keeps its own pixels in every frame and costs nothing, \
also in **Quadtree VAE Decode**, which decodes only what has changed.

Select a clip of 1 + 4n frames, such as 81, in **Load Video**: Wan drops frames that fill no \
latent frame. The panel shows the tree before the run, or of a long clip once it has run."""
RESTORE = """\
SeedVR2 restores detail in one step and without a prompt. It sees the image in windows, so large \
ones fit, and leaves calm regions (blue tiles) alone. What it restores (red tiles) it restores \
fully: *min_denoise* and *max_denoise* are 1.

For a clip, put Load Video and Get Video Components in the place of Load Image, and set *batch* \
of **Quadtree Visualizer** to clip."""


Z_IMAGE_RUN = {"steps": 8, "cfg": 1.0, "sampler_name": "res_multistep", "denoise": 0.5}


def write_z_image(flow: Workflow) -> None:
    flow.note(
        "Upscale with Z-Image, refining the detail and keeping calm regions",
        f"{KEPT} Z-Image Turbo needs 8 steps and no negative prompt.",
    )
    model, clip, vae = load_z_image(flow)
    image, _ = load_image(flow, "The image, enlarged")
    enlarged = enlarge(flow, image)
    positive = write_prompt(flow, clip)
    texts = {"positive": positive, "negative": zero_out(flow, positive)}
    upscale(flow, vae, model, enlarged, image=image, **texts, **Z_IMAGE_RUN)


def write_regions(flow: Workflow) -> None:
    flow.note("Upscale with Z-Image, with a prompt for each region of the image", REGIONS)
    model, clip, vae = load_z_image(flow)
    image, _ = load_image(flow, "The image, enlarged")
    enlarged = enlarge(flow, image)
    rest = write_prompt(flow, clip)
    tree = choose(flow, image)
    flow.group(1, "A prompt for each crop")
    positive = describe(flow, image, tree, clip, rest)
    texts = {"positive": positive, "negative": zero_out(flow, rest)}
    refined = refine(flow, tree, vae, enlarged, model=model, **texts, **Z_IMAGE_RUN)
    show(flow, enlarged, compose(flow, tree, enlarged, refined))


def describe(flow: Workflow, image: Output, tree: Output, clip: Output, rest: Output) -> Output:
    """Give each crop of the image a prompt that a language model writes."""
    (captioner,) = flow.add("CLIPLoader", clip_name=MODELS["gemma 4"], title="Describes crops")
    crops, regions = flow.add("QuadtreeCrops", color="own", image=image, quadtree=tree)
    words = {"prompt": DESCRIBE, "max_length": 128, "sampling_mode": "off", "height": 340}
    (text,) = flow.add("TextGenerate", clip=captioner, image=crops, **words)
    each = {"title": "A prompt for each text", "height": 130}
    (prompts,) = flow.add("CLIPTextEncode", clip=clip, text=text, **each)
    links = {"conditioning": rest, "prompts": prompts, "regions": regions}
    return flow.add("QuadtreePrompts", color="own", **links)[0]


def write_qwen_image(flow: Workflow) -> None:
    flow.note(
        "Upscale with Qwen-Image, refining the detail and keeping calm regions",
        f"{KEPT} {IN_PARTS} The Lightning LoRA needs 4 steps; without it, take 20 steps and a "
        "cfg of 4.",
    )
    model, vae = load_parts(flow, "qwen", "qwen vae")
    (clip,) = flow.add("CLIPLoader", clip_name=MODELS["qwen text"], type="qwen_image")
    (model,) = flow.add("LoraLoaderModelOnly", model=model, lora_name=MODELS["qwen lora"])
    (model,) = flow.add("ModelSamplingAuraFlow", model=model, shift=3.1)
    image, _ = load_image(flow, "The image, enlarged")
    enlarged = enlarge(flow, image)
    texts = write_prompts(flow, clip)
    tree = choose(flow, image)
    run = {"steps": 4, "cfg": 1.0, "denoise": 0.5}
    show(flow, enlarged, refine_in_parts(flow, tree, vae, enlarged, model=model, **texts, **run))


def write_flux(flow: Workflow) -> None:
    flow.note("Upscale with Flux, refining the detail and keeping calm regions", KEPT)
    model, clip, vae = load_flux(flow, "flux")
    image, _ = load_image(flow, "The image, enlarged")
    (upscaler,) = flow.add("UpscaleModelLoader", model_name=MODELS["esrgan"])
    (large,) = flow.add("ImageUpscaleWithModel", upscale_model=upscaler, image=image)
    enlarged = enlarge(flow, large, 0.5, "Twice the size: half of fourfold")
    texts = write_guided_prompt(flow, clip, 3.5)
    run = {"steps": 20, "cfg": 1.0, "denoise": 0.5}
    upscale(flow, vae, model, enlarged, image=image, **texts, **run)


SDXL_RUN = {"steps": 24, "cfg": 6.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}


def write_sdxl(flow: Workflow) -> None:
    flow.note("Upscale with SDXL, refining the detail and keeping calm regions", f"{KEPT} {TOLD}")
    model, clip, vae = load_checkpoint(flow, "sdxl")
    image, _ = load_image(flow, "The image, enlarged")
    enlarged = enlarge(flow, image)
    texts = write_prompts(flow, clip)
    tree = upscale(flow, vae, model, enlarged, image=image, **texts, **SDXL_RUN, denoise=0.5)
    describe_tree(flow, tree, SDXL_RUN["steps"])


def write_face(flow: Workflow) -> None:
    flow.note("Refine a picture, keep the face", FACE)
    model, clip, vae = load_checkpoint(flow, "sdxl")
    image, mask = load_image(
        flow, "The image and its mask", "Paint the face here, in the mask editor"
    )
    (kept,) = flow.add("InvertMask", mask=mask, title="Painted = 0 = keep")
    texts = write_prompts(flow, clip)
    tree = choose(flow, image, mask=kept)
    refined = refine(flow, tree, vae, image, model=model, **texts, **SDXL_RUN, denoise=0.5)
    show(flow, image, compose(flow, tree, image, refined))


def write_inpaint(flow: Workflow) -> None:
    flow.note("Inpaint an image of any size, such as 4K", INPAINT)
    model, clip, vae = load_flux(flow, "flux fill")
    image, mask = load_image(flow, "The image and its mask", "Paint here, in the mask editor")
    texts = write_guided_prompt(flow, clip, 30.0, "what is to be seen in the painted region")
    tree = choose(flow, image, mask=mask, mask_mode="replace")
    model = patch(flow, tree, model)
    positive, negative, latent = flow.add(
        "InpaintModelConditioning", vae=vae, pixels=image, mask=mask, **texts
    )
    texts = {"positive": positive, "negative": negative}
    refined = decode(flow, sample(flow, model, latent, cfg=1.0, steps=20, **texts), vae)
    show(flow, image, compose(flow, tree, image, refined))


def write_tile_control(flow: Workflow) -> None:
    flow.note("Upscale with a tile ControlNet, at a high denoise", TILE)
    model, clip, vae = load_checkpoint(flow, "sd15")
    (control,) = flow.add("ControlNetLoader", control_net_name=MODELS["tile"])
    image, _ = load_image(flow, "The image, enlarged")
    enlarged = enlarge(flow, image)
    texts = write_prompts(flow, clip)
    positive, negative = flow.add(
        "ControlNetApplyAdvanced", control_net=control, image=enlarged, strength=0.8, **texts
    )
    texts = {"positive": positive, "negative": negative}
    upscale(flow, vae, model, enlarged, image=image, **texts, **SDXL_RUN, denoise=0.7)


def write_wan(flow: Workflow) -> None:
    flow.note("Upscale a clip with Wan 2.2, refining what has detail or moves", CLIP)
    model, vae = load_parts(flow, "wan", "wan vae")
    (clip,) = flow.add("CLIPLoader", clip_name=MODELS["wan text"], type="wan")
    (model,) = flow.add("LoraLoaderModelOnly", model=model, lora_name=MODELS["wan lora"])
    (model,) = flow.add("ModelSamplingSD3", model=model, shift=5.0)
    flow.group(0, "The clip, enlarged")
    (video,) = flow.add("LoadVideo", height=300)
    frames, audio, fps, _ = flow.add("GetVideoComponents", video=video)
    enlarged = enlarge(flow, frames)
    texts = write_prompts(flow, clip, FILM)
    tree = choose(flow, frames, batch="clip")
    run = {"steps": 4, "cfg": 1.0, "denoise": 0.4}
    after = refine_in_parts(flow, tree, vae, enlarged, model=model, **texts, **run)
    flow.group(3, "Result")
    (film,) = flow.add("CreateVideo", images=after, fps=fps, audio=audio)
    flow.add("SaveVideo", video=film, filename_prefix=prefix(flow), height=RESULT_PX)
    compare(flow, enlarged, after)


def write_seedvr2(flow: Workflow) -> None:
    flow.note("Upscale with SeedVR2, in windows and only where there is detail", RESTORE)
    model, vae = load_parts(flow, "seedvr2", "seedvr2 vae")
    image, _ = load_image(flow, "The image, enlarged")
    enlarged = enlarge(flow, image)
    tree = choose(flow, image, min_denoise=1.0, max_denoise=1.0, coverage=0.83)
    model = patch(flow, tree, model)
    (padded,) = flow.add("SeedVR2Preprocess", resized_images=enlarged)
    (latent,) = flow.add("VAEEncodeTiled", pixels=padded, vae=vae, tile_size=512, overlap=128)
    positive, negative = flow.add("SeedVR2Conditioning", model=model, vae_conditioning=latent)
    texts = {"positive": positive, "negative": negative}
    restored = decode(flow, sample(flow, model, latent, steps=1, cfg=1.0, **texts), vae)
    (cropped,) = flow.add(
        "SeedVR2PostProcessing", images=restored, original_resized_images=enlarged
    )
    show(flow, enlarged, compose(flow, tree, enlarged, cropped))


TEMPLATES: dict[str, Callable[[Workflow], None]] = {
    "Quadtree-Z-Image-upscale": write_z_image,
    "Quadtree-Qwen-Image-upscale": write_qwen_image,
    "Quadtree-Flux-upscale": write_flux,
    "Quadtree-SDXL-upscale": write_sdxl,
    "Quadtree-keep-the-face": write_face,
    "Quadtree-prompt-per-region": write_regions,
    "Quadtree-inpaint-4K": write_inpaint,
    "Quadtree-tile-ControlNet": write_tile_control,
    "Quadtree-Wan-video-upscale": write_wan,
    "Quadtree-SeedVR2-upscale": write_seedvr2,
}


def make(object_info: dict) -> dict[str, dict]:
    """Return the templates by name, with the nodes that a server has."""
    made = {}
    for name, write in TEMPLATES.items():
        flow = Workflow(name, object_info)
        write(flow)
        made[name] = flow.as_dict()
    return made


def main(into: Path) -> None:
    """Write the templates as files of one line, which keep the registry's archive small."""
    from quadtree_pack import demo

    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    with (
        tempfile.TemporaryDirectory() as base,
        demo.running_server(Path(base), comfyui, demo.find_free_port()) as server,
    ):
        made = make(demo.get_json(f"{server.url}/object_info"))
    folder = into / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, workflow in made.items():
        text = json.dumps(workflow, ensure_ascii=False, separators=(",", ":"))
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{name}.json  {len(text) / 1000:.0f} kB", flush=True)
