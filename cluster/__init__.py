"""The windows of a step on many machines, by Ray.

`joining` (join the cluster that the environment names, or start one here), `branch` (the part of a
prompt that makes a model), `identity` (is a worker's model the same?), `packing` (tensors on the
way), `rounding` (half the bytes, where that changes nothing), `job` (a step as workers get it),
`actor` (what Ray starts on a worker), `worker` (what runs there: ComfyUI, the model and its
windows), `remote` (one worker as this machine sees it, with its faults), `places` (where workers
can run), `crew` (all of them, and what takes part in a run).

Ray is imported in `joining` only, when the node is used. May import all but nodes.
"""
