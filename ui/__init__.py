"""What the nodes share towards the user: checks of inputs, the live preview, prices, numbers and overlays.

May import everything but tiled_diffusion and nodes.
"""
