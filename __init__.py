"""Quadtree Diffusion: content-adaptive tiled diffusion for ComfyUI."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    # Imported here, not above: test tools import this file by itself, without a package around it.
    from .nodes import QuadtreeExtension

    return QuadtreeExtension()
