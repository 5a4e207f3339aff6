"""Which windows the model sees at a step, and how their results are blended into one.

May import utils only, and of packages torch and numpy; nothing of ComfyUI.
"""
