"""An empty project folder for the tests of devtools."""

import pytest
from quadtree_pack.devtools import paths


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return an empty folder that devtools takes for the project's own."""
    for name in (
        "VENV",
        "CACHE",
        "OWN_COMFYUI",
        "PYTHON",
        "REQUIREMENTS",
        "BUSY",
        "NO_BROWSER",
    ):
        monkeypatch.setattr(paths, name, tmp_path / getattr(paths, name).relative_to(paths.ROOT))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    paths.CACHE.mkdir()
    return tmp_path
