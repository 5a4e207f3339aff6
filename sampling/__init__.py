"""One sampling run: its plan and state, and what each model call gets, window by window.

From the bottom up: `protocols` (types of what ComfyUI hands over), `model` (settings, and what is
known of the model), `steps` (which step a call belongs to), `frames` (which tree a latent frame
follows), `cropping` (crop a tensor to windows), `pace` (the seconds that are left), `caches`
(EasyCache for each window), `cond_masks` (where masked prompts count), `maps` (the denoise of every
cell), `plan` (what is fixed in a run), `layouts` (the windows of its steps), `tally` (what it has
cost), `run` (its state), `cost` (predicts its cost without ComfyUI), `history` (multistep samplers
forget what was held), `estimates` (keep the last estimate exact), `rules` (the tables: how each
entry is cropped, and what is refused), `contents` (what patches of other packs hold), `keeping`
(what they keep of windows), `patches` (cut masks in them), `patch_controls` (ControlNets that patch
the model), `remaking` (what ComfyUI makes for the canvas' size), `guides` (LTXV's guide frames),
`audio` (LTX-2's, packed with its video), `conditioning` (crop a whole call), `control`
(ControlNets), `sums` (the sum of windows over what holds the cells), `board` (who evaluates which
batch), `parallel` (several devices), `fitting` (windows in one call), `evaluation` (evaluate the
windows and blend them) and `opening` (open a run). `prompts` is used before a run: it masks the
prompts of regions.

May import tree, windows, quadtree, velocity and utils.
"""
