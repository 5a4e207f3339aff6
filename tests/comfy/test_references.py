"""Reference latents in windows: cut where they lie on the image, of any resolution, whole where
they do not; as without windows on a network that looks at them cell by cell."""

import pytest
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from quadtree_pack.sampling import references as references_module
from quadtree_pack.testing.features import (
    look_at_references,
    refer,
    resize_picture,
    with_reference,
)
from quadtree_pack.testing.support import Spy, error, free_cells, half_kept, patched, tree_of
from quadtree_pack.testing.tiny_models import ZOO
from quadtree_pack.testing.tiny_models.building import clean_latent, sample

RUN = {"steps": 3, "cfg": 3.0, "denoise": 0.8}
CANVASES = {"even": (32, 40), "odd": (33, 43)}


class Scene:
    """An entry's conds with a reference, on a canvas of smooth shapes that can be recognised."""

    def __init__(self, name, size=CANVASES["even"], batch=1):
        self.entry = ZOO[name]()
        middle = self.entry.latent().shape[1:-2]
        self.latent = clean_latent((batch, *middle, *size), 5)

    def show(self, factor, seed=None):
        """The canvas' picture, or another one, at so many times its resolution."""
        picture = self.latent if seed is None else clean_latent(self.latent.shape, seed)
        return resize_picture(picture, factor)

    def with_reference(self, picture, *, extra=()):
        self.entry = with_reference(self.entry, picture)
        self.entry.positive += extra
        return self

    def check(self, *, references, whole, after=True, cfg=3.0):
        run = {**RUN, "cfg": cfg}
        network = look_at_references(self.entry.model, whole=whole)
        plain = sample(self.entry, self.latent, model=network, **run)
        height, width = self.latent.shape[-2:]
        px = self.entry.px_per_cell
        everything = tree_of([[1.0]], height, width, px)
        for tree, batch, overlap in (
            (everything, 1, 0),
            (everything, 3, 4),
            (half_kept(height, width, px), 2, 0),
        ):
            settings = {"tile_px": 16 * px, "batch": batch, "overlap_px": overlap * px}
            settings["references"] = references
            if after:
                model = patched(self.entry, tree, model=network, **settings)
            else:
                model = look_at_references(patched(self.entry, tree, **settings), whole=whole)
            tiled = sample(self.entry, self.latent, model=model, **run)
            free = free_cells(tree, self.latent)
            assert error(tiled[..., free], plain[..., free]) < 1e-5
            assert torch.equal(tiled[..., ~free], self.latent[..., ~free])


@pytest.mark.parametrize("after", [True, False], ids=["patched after", "patched before"])
@pytest.mark.parametrize("name", ["flux_kontext", "qwen_edit", "flux2"])
@pytest.mark.parametrize("factor", [1, 2, 0.5])
def test_the_same_picture_at_any_resolution_is_cut(name, factor, after):
    scene = Scene(name)
    scene.with_reference(scene.show(factor)).check(references="automatic", whole=False, after=after)


@pytest.mark.parametrize("name", ["flux_kontext", "qwen_edit"])
@pytest.mark.parametrize("factor", [2, 0.5])
def test_another_picture_is_seen_whole_unless_it_has_the_canvas_size(name, factor):
    scene = Scene(name)
    scene.with_reference(scene.show(factor, seed=90)).check(references="automatic", whole=True)
    scene.with_reference(scene.show(1, seed=90)).check(references="automatic", whole=False)


@pytest.mark.parametrize("factor", [1, 2, 0.5])
def test_the_input_has_the_last_word(factor):
    scene = Scene("flux_kontext")
    scene.with_reference(scene.show(factor, seed=90)).check(references="on the image", whole=False)
    scene.with_reference(scene.show(factor)).check(references="whole", whole=True)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("canvas", CANVASES.values(), ids=CANVASES)
def test_batches_and_odd_canvases(canvas, batch):
    scene = Scene("flux_kontext", canvas, batch)
    scene.with_reference(scene.show(2)).check(references="automatic", whole=False)


def test_references_of_an_area_are_as_comfyui_has_them():
    """ComfyUI cuts no reference to an area: what shows the area alone lies on it. (What shows all
    of the image is seen whole there, as the negative's would be that ComfyUI makes for an area.)"""
    scene = Scene("flux_kontext")
    area = {"area": (16, 24, 8, 4), "strength": 1.3}
    part = scene.show(1)[..., 8:24, 4:28]
    text, values = scene.entry.make_cond(21)[0]
    cut = refer(
        [[text, {**values, "reference_latents": [], **area}]], F.interpolate(part, scale_factor=2.0)
    )
    scene.with_reference(scene.show(2), extra=cut).check(
        references="automatic", whole=False, cfg=1.0
    )


def test_each_reference_of_several_is_told_by_itself():
    scene = Scene("flux_kontext")
    scene.with_reference(scene.show(0.5))
    scene.entry.positive = refer(scene.entry.positive, scene.show(0.5, seed=91))
    scene.entry.negative = refer(scene.entry.negative, scene.show(0.5, seed=91))
    tree = tree_of([[1.0]], 32, 40)
    shapes = []

    def note(executor, noisy, sigma, *args, ref_latents=(), **entries):
        shapes.append([tuple(picture.shape[-2:]) for picture in ref_latents])
        return executor(noisy, sigma, *args, ref_latents=ref_latents, **entries)

    model = patched(scene.entry, tree, tile_px=128, overlap_px=0)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "note", note)
    assert sample(scene.entry, scene.latent, model=model, **RUN).isfinite().all()
    assert {seen[1] for seen in shapes} == {(16, 20)}
    assert all(max(seen[0]) <= 8 for seen in shapes)


def test_pictures_are_compared_once_for_a_run(monkeypatch):
    seen = []
    original = references_module.show_same
    monkeypatch.setattr(
        references_module, "show_same", lambda *pair: seen.append(1) or original(*pair)
    )
    scene = Scene("flux_kontext")
    scene.with_reference(scene.show(2))
    spy = Spy(patched(scene.entry, tree_of([[1.0]], 32, 40), tile_px=128))
    sample(scene.entry, scene.latent, model=spy.model, **RUN)
    assert len(seen) == 2 and len(spy.shapes) > 4  # one for each cond
