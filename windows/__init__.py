"""Which windows the model sees at a step, and how their results are blended into one.

`tiling` defines the vocabulary. `planning` chooses the windows: `cutting` proposes ways to cut an
axis, `strips` finds the cheapest windows in a row of them, and `shapes` gives windows common
shapes; `sharing` is about windows that several evaluate at once, `batches` about those of several
images. `selection` ranks the tiles of an image with the windows in mind. `blending` weighs their
results. `memory` tells when windows must become smaller.

May import utils only, and of packages torch and numpy; `memory` alone asks ComfyUI.
"""
