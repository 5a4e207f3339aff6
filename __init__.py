"""Quadtree Diffusion: content-adaptive tiled diffusion for ComfyUI."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> object:
    """Return the extension that lists the nodes; ComfyUI calls this."""
    # Imported here, not above: test tools import this file by itself, without a package around it.
    from .nodes import QuadtreeExtension

    return QuadtreeExtension()
