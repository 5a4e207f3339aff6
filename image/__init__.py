"""Pictures after sampling: kept pixels put back, and decoding of what changed alone.

May import tree, windows, quadtree, memory and utils.
"""
