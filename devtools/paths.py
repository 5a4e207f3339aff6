"""Where things lie in the project's folder."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
CACHE = ROOT / ".cache"
OWN_COMFYUI = CACHE / "comfyui"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = ROOT / "requirements-dev.txt"
# There while .venv is being changed: found at the start, it tells of an interrupted setup.
BUSY = CACHE / "venv.busy"
# There where apt-get had no Chromium.
NO_BROWSER = CACHE / "no-chromium"
