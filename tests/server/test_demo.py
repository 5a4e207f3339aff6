"""`python dev.py demo` and `serve` themselves, with their data in a folder of the test."""

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from PIL import Image
from quadtree_pack import demo
from quadtree_pack.demo import commands, folders
from quadtree_pack.testing.shipped import EXAMPLES


@pytest.mark.slow
def test_the_demo_refines_its_photo_and_leaves_pictures(tmp_path, monkeypatch, capsys):
    """Four steps are enough and sooner done."""
    workflow = json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    (sampler,) = (node for node in workflow["nodes"] if node["type"] == "KSampler")
    sampler["widgets_values"][2] = 4
    (tmp_path / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    monkeypatch.setattr(folders, "WORKFLOW", tmp_path / "workflow.json")
    monkeypatch.setattr(folders, "BASE", tmp_path / "server")
    monkeypatch.setattr(folders, "OUTPUT", tmp_path / "output")
    assert commands.main([]) == 0
    told = capsys.readouterr().out
    assert "kept regions 0, elsewhere" in told and "every pixel unchanged" in told
    pictures = list((tmp_path / "output").glob("*.png"))
    assert len(pictures) > 3 and len({Image.open(path).tobytes() for path in pictures}) == len(
        pictures
    )


# The pictures that the templates load.
LOADED = {
    node["widgets_values"][0]
    for graph in EXAMPLES.values()
    for node in graph["nodes"]
    if node["type"] == "LoadImage"
}
SERVE = """
import sys
sys.path[0] = sys.argv[1]
from pathlib import Path
from demo import commands, folders
folders.BASE = Path(sys.argv[2])
sys.exit(commands.run(["--serve"]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl+C to a whole console")
def test_serve_leaves_a_server_with_workflow_and_pictures_until_it_is_interrupted(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, demo.ROOT, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            url = read_address(process)
            with urllib.request.urlopen(f"{url}/system_stats") as answer:
                stats = json.load(answer)
            saved = list(tmp_path.rglob(f"{demo.TEMPLATE}.json"))
            sizes = {name: read_size(url, name) for name in LOADED}
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert stats["system"]["comfyui_version"] and saved
    with Image.open(demo.DEMO / "photo.png") as photo:
        assert sizes == {"example.png": photo.size}


def read_size(url, name):
    """Return the size of an input picture, as the browser gets it to show it in Load Image."""
    with urllib.request.urlopen(f"{url}/api/view?filename={name}&type=input") as answer:
        return Image.open(io.BytesIO(answer.read())).size


def read_address(process):
    """Return the server's address as `serve` prints it."""
    for line in process.stdout:
        if line.startswith("ComfyUI runs. The demo's workflow: http"):
            return line.split()[-1].partition("/?")[0]
    raise AssertionError("the demo ended without an address")
