"""Pictures after sampling: kept pixels are put back, and only what changed is decoded.

May import tree, windows, quadtree and utils.
"""
