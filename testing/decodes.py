"""Pictures, trees and decodes that the tests of Quadtree VAE Decode share."""

import torch
from quadtree_pack.image.composite import canvases, composite
from quadtree_pack.nodes import QuadtreeVAEDecode
from quadtree_pack.quadtree import Quadtree
from quadtree_pack.testing.support import tree_of

LEVEL = 1 / 255
LOCAL = ("qwen", "wan22", "taesd")  # nothing of the whole image behind their lowest resolution
# By hand: 3 x 3 convolutions at 2, 4 and 8 times the latent's resolution (Wan 2.2: from 1 to 8), rounded up to whole cells.
REACH = {"qwen": 7, "wan22": 13, "taesd": 9}
SIZE = 32, 40
LARGE = 64, 64  # for which windows are less than the whole
CORNER = tree_of([[1.0] + [0.0] * 7] + [[0.0] * 8] * 7, *LARGE)
CORNERS = [[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0.5], [0, 0, 0, 0, 0]]


def picture(vae, cells=SIZE, images=1):
    height, width = (length * vae.spacial_compression_decode() for length in cells)
    return torch.rand(images, height, width, 3, generator=torch.Generator().manual_seed(1))


def corners(vae, cells=SIZE):
    return tree_of(CORNERS, *cells, vae.spacial_compression_decode())


def decoded(vae, samples, trees, original, feather=0, **options):
    trees = (trees,) if isinstance(trees, Quadtree) else trees
    return QuadtreeVAEDecode.execute(
        {"samples": samples}, vae, trees, original, feather, **options
    ).args[0]


def whole(vae, samples):
    with torch.no_grad():
        images = vae.decode(samples)
    return images.reshape(-1, *images.shape[-3:])


def composed(original, refined, tree, feather=0, **options):
    """What Quadtree Composite makes of two images [H, W, 3]."""
    return composite(
        canvases(original[None], (tree,), tuple(original.shape[:2]), 1)[0],
        refined,
        feather,
        **options,
    )


class Watch:
    """Sizes of what a VAE's convolutions put out."""

    def __init__(self, vae):
        convolutions = [
            module
            for module in vae.first_stage_model.modules()
            if isinstance(module, torch.nn.modules.conv._ConvNd)
        ]
        self.px, self.vae, self.last = [], vae, None
        self.handles = [module.register_forward_hook(self._note) for module in convolutions]

    def _note(self, _module, _args, output):
        self.px.append(output.shape[0] * output.shape[-1] * output.shape[-2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()
