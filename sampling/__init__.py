"""One sampling run: its plan and state, and what each model call gets, window by window.

May import tree, windows, quadtree, velocity and utils.
"""
