"""What tests and benchmarks share: tiny models, VAEs and ControlNets, photos, measures, and ways to
run the real ComfyUI.

May import everything of the pack; nothing of the pack imports it, and it is not shipped.
"""
