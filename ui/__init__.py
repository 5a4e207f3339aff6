"""What the nodes share towards the user.

`inputs` checks what comes in, `preview` answers the live preview, `budget` finds the threshold of
a cost, `facts` summarizes trees, and `overlay` draws them.

May import everything but tiled_diffusion and nodes.
"""
