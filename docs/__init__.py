"""The project's pictures, drawn with the pack's own code: `python dev.py figures` draws them."""
