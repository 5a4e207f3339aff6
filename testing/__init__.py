"""What tests and benchmarks share: tiny models, photos, measures, and ways to run ComfyUI.

May import everything of the pack; nothing of the pack imports it, and it is not shipped.
"""
