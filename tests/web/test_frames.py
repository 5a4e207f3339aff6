"""The slider for the frames of a clip: of a file before a run, of any clip after one."""

import pytest
from quadtree_pack.testing.frontend import DEFAULTS, LOADER, VISUALIZER, node, workflow

FRAMES = 26  # one of the photo, and then 25 of the other one
AUTOMATIC = [0.0, 0, 0, *DEFAULTS[3:]]


def clip_workflow(batch):
    """Two files, the second many times, as the frames of one clip."""
    graph = workflow(values=[*AUTOMATIC[:-2], batch, "custom"])
    repeat = [("image", "IMAGE", 2)]
    both = [("image1", "IMAGE", 1), ("image2", "IMAGE", 3)]
    graph["nodes"] += [
        node(3, "LoadImage", [], [("IMAGE", "IMAGE", [2])], values=("sub/tall [1].png", "image")),
        node(4, "RepeatImageBatch", repeat, [("IMAGE", "IMAGE", [3])], values=(FRAMES - 1,)),
        node(5, "ImageBatch", both, [("IMAGE", "IMAGE", [4])]),
    ]
    graph["links"] = [
        [1, LOADER, 0, 5, 0, "IMAGE"],
        [2, 3, 0, 4, 0, "IMAGE"],
        [3, 4, 0, 5, 1, "IMAGE"],
        [4, 5, 0, VISUALIZER, 0, "IMAGE"],
    ]
    graph["nodes"][1]["inputs"][0]["link"] = 4
    return graph


def look_at(page, place, number):
    """Move to the place-th frame that is shown and return the picture's file and the tree."""
    before = page.page.locator(".qt-view img").first.get_attribute("src")
    page.page.get_by_label("Frame of the clip").first.fill(str(place))
    page.page.wait_for_function(
        "before => document.querySelector('.qt-view img').getAttribute('src') !== before",
        arg=before,
    )
    text = page.page.locator(".qt-frames span").first.text_content()
    assert text == f"frame {number} of {FRAMES}"
    line = page.line("model cost.*of the last run$")
    return page.page.locator(".qt-view img").first.get_attribute("src"), line


@pytest.mark.parametrize("batch", ["clip", "clip per frame"])
def test_a_slider_shows_the_frames_of_a_clip_with_their_trees(page, batch):
    page.load(clip_workflow(batch))
    page.line("^ImageBatch is computed during the run|of the last run$")
    assert page.run() == "execution_success"
    page.line("model cost.*of the last run$")
    slider = page.page.get_by_label("Frame of the clip").first
    slider.wait_for()
    assert slider.get_attribute("max") == "4"
    last_picture, last = look_at(page, 4, 26)
    first_picture, first = look_at(page, 0, 1)
    assert first_picture != last_picture
    assert (first != last) == (batch == "clip per frame")
    page.set("batch", "images")
    page.line("of a run with another choice of batch$")
    slider.wait_for(state="hidden")


def test_a_single_picture_has_no_slider_for_frames(page):
    page.load(workflow(values=AUTOMATIC))
    page.line("model cost")
    assert page.page.locator(".qt-frames").first.is_hidden()


def test_frames_of_a_video_have_a_slider_before_a_run(page):
    graph = workflow(values=[*AUTOMATIC[:-2], "clip per frame", "custom"])
    graph["nodes"] = [graph["nodes"][1]]
    parts = [("images", "IMAGE", [2]), ("audio", "AUDIO", []), ("fps", "FLOAT", [])]
    graph["nodes"] += [
        node(3, "LoadVideo", [], [("VIDEO", "VIDEO", [1])], values=("example.mp4", "image")),
        node(4, "GetVideoComponents", [("video", "VIDEO", 1)], parts),
    ]
    graph["links"] = [[1, 3, 0, 4, 0, "VIDEO"], [2, 4, 0, VISUALIZER, 0, "IMAGE"]]
    graph["nodes"][0]["inputs"][0]["link"] = 2
    page.load(graph)
    slider = page.page.get_by_label("Frame of the clip").first
    slider.wait_for()
    assert slider.get_attribute("max") == "1"
    text = page.page.locator(".qt-frames span").first
    assert text.text_content() == "frame 1 of 5"
    slider.fill("1")
    page.page.wait_for_function(
        "() => document.querySelector('.qt-view img').src.includes('_1.jpg')"
    )
    assert text.text_content() == "frame 2 of 5"
