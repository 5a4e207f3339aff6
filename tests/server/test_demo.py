"""`python dev.py demo` and `serve` themselves, with their server's data and their pictures in a folder of the test."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from quadtree_pack.testing.api import get
from quadtree_pack.testing.demo import demo


@pytest.mark.slow
def test_the_demo_refines_its_photo_and_leaves_pictures(tmp_path, monkeypatch, capsys):
    """In four steps, to be done sooner."""
    workflow = json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    (sampler,) = (node for node in workflow["nodes"] if node["type"] == "KSampler")
    sampler["widgets_values"][2] = 4
    (tmp_path / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    monkeypatch.setattr(demo, "WORKFLOW", tmp_path / "workflow.json")
    monkeypatch.setattr(demo, "BASE", tmp_path / "server")
    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "output")
    monkeypatch.syspath_prepend(demo.DEMO)
    assert demo.main([]) == 0
    told = capsys.readouterr().out
    assert "kept regions 0, elsewhere" in told and "each px as it was" in told
    pictures = list((tmp_path / "output").glob("*.png"))
    assert len(pictures) > 3 and len({Image.open(path).tobytes() for path in pictures}) == len(
        pictures
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl+C to a whole console")
def test_serve_leaves_a_server_with_the_workflow_until_it_is_interrupted(tmp_path):
    code = (
        "import signal, sys; from pathlib import Path; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"sys.path.insert(0, {str(demo.DEMO)!r}); import run; run.BASE = Path({str(tmp_path)!r}); run.main(['--serve'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            line = next(
                (
                    line
                    for line in process.stdout
                    if line.startswith("ComfyUI runs. The demo's workflow: http")
                ),
                "",
            )
            url = line.split()[-1].partition("/?")[0]
            stats = get(type("Server", (), {"url": url}), "/system_stats")
            saved = list(Path(tmp_path).rglob(f"{demo.TEMPLATE}.json"))
        finally:
            process.send_signal(signal.SIGINT)
        process.wait(30)
    assert stats["system"]["comfyui_version"] and saved
