"""`python dev.py cluster-demo`: a Ray cluster of its own, as without RAY_ADDRESS."""

import os
import subprocess
import sys

import pytest
from PIL import Image
from quadtree_pack.demo import folders
from quadtree_pack.devtools import paths
from quadtree_pack.testing import cluster as loopback


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_cluster_demo_gives_the_same_picture_and_draws_who_did_what():
    loopback.need_ray()
    target = folders.OUTPUT / "cluster.png"
    target.unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "7c1e" * 16}
    told = subprocess.run(
        [sys.executable, "-m", "demo.cluster", "--steps", "3"],
        cwd=paths.ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    assert "the same picture: True" in told.stdout and told.stdout.count(" is ready") == 2
    assert Image.open(target).size == (2880, 1920)
