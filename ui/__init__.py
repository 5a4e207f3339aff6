"""What the nodes share towards the user.

`inputs` checks what comes in. `building` builds the tree that the inputs ask for: `coverage` by the
share of the detail, `budget` by a threshold or the cost, and `clips` for a batch that may be a
clip. `preview` answers the live preview, and `passing` applies the nodes before it. `price` tells
what a run will cost, from the `workflow` that the browser sends, the `sizes` in it and the
`model_files` that it names; `files` finds image files. `facts` summarizes trees, `overlay` draws
them, and `crops` cuts what they refine out of the image. `schemas` and `prompt_schemas` hold the
nodes' inputs and outputs.

May import everything but tiled_diffusion and nodes.
"""
