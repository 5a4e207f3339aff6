"""Runs the demo.

python demo/run.py              runs the workflow with and without the pack; pictures in demo/output
python demo/run.py --serve      leaves the server running, with the workflow ready to open

COMFYUI_PATH names the ComfyUI folder, and Python is the one that runs that ComfyUI.
`python dev.py demo` sets up both.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # makes this folder a package
    from demo.commands import run

    sys.exit(run(sys.argv[1:]))
