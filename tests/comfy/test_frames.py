"""The panel gets the tree and the picture of any frame of a clip: of a file before a run, and of
any clip after it."""

import folder_paths
import pytest
import torch.nn.functional as F
from comfy_api.latest import InputImpl
from comfy_extras.nodes_video import GetVideoComponents, LoadVideo, VideoSlice
from PIL import Image
from quadtree_pack.nodes import QuadtreeVisualizer
from quadtree_pack.quadtree import FrameTrees
from quadtree_pack.testing.clips import object_clip, save_clip, soft_wall
from quadtree_pack.ui import passing
from quadtree_pack.ui.files import RequestError
from quadtree_pack.ui.frames import MOST_SHOWN, list_shown_frames
from quadtree_pack.ui.preview import answer_request
from torchvision.transforms.functional import pil_to_tensor

import nodes

FRAMES = 33
AUTOMATIC = {
    "content_threshold": 0.0,
    "min_tile_size": 32,
    "max_tile_size": 0,
    "min_denoise": 0.2,
    "max_denoise": 0.8,
}
THRESHOLD = {**AUTOMATIC, "content_threshold": 20.0}


@pytest.fixture(scope="module")
def clip():
    return object_clip(soft_wall(256, 1280), FRAMES, side=64, start=(96, 32), step=(0, 32))


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    return tmp_path


def run(clip, values, batch):
    """The trees of a run, and the key under which the panel asks for it."""
    output = QuadtreeVisualizer.execute(clip, **values, line_thickness=0, batch=batch)
    return output.args[1], output.ui["quadtree_run"][0]["key"]


def tiles_of(tree):
    return [number for leaf in tree.leaves for number in (leaf.x0, leaf.y0, leaf.side)]


def denoise_of(tree):
    return [round(1000 * leaf.denoise) for leaf in tree.leaves]


def find_nearest(path, clip):
    """The number of the frame that a picture shows."""
    with Image.open(path) as picture:
        shown = pil_to_tensor(picture).float() / 255
    frames = F.interpolate(clip.movedim(-1, 1), size=shown.shape[1:], mode="area")
    return int((frames - shown).square().mean((1, 2, 3)).argmin())


@pytest.mark.parametrize("values", [AUTOMATIC, THRESHOLD], ids=["coverage", "threshold"])
@pytest.mark.parametrize("batch", ["clip", "clip maximum", "clip per frame"])
def test_each_frame_that_is_shown_has_the_tree_and_the_picture_of_the_run(
    clip, temporary, values, batch
):
    trees, key = run(clip, values, batch)
    seen = set()
    for place, frame in enumerate(list_shown_frames(FRAMES)):
        answer = answer_request({**values, "run": key, "batch": batch, "frame": place})
        tree = trees[frame] if isinstance(trees, FrameTrees) else trees[0]
        assert answer["tiles"] == tiles_of(tree) and answer["denoise"] == denoise_of(tree)
        assert answer["frames"]["shown"][place] == frame and answer["frames"]["count"] == FRAMES
        assert find_nearest(temporary / answer["picture"]["filename"], clip) == frame
        seen.add(str(answer["tiles"]))
    assert (len(seen) > 2) == (batch == "clip per frame")


def test_the_trees_follow_the_inputs_without_another_run(clip):
    _, key = run(clip, AUTOMATIC, "clip")
    changed = {**AUTOMATIC, "max_denoise": 0.6}
    trees, other = run(clip, changed, "clip per frame")
    _, key = run(clip, AUTOMATIC, "clip")
    answer = answer_request({**changed, "run": key, "batch": "clip per frame", "frame": 3})
    assert answer["tiles"] == tiles_of(trees[list_shown_frames(FRAMES)[3]])
    # Of the clip before, the sums are no longer kept: the panel shows one tree for all frames.
    older = answer_request({**changed, "run": other, "batch": "clip per frame", "frame": 5})
    assert older["frames"] and older["tiles"]


def test_the_price_is_that_of_the_whole_clip_at_any_frame(clip):
    _, key = run(clip, AUTOMATIC, "clip per frame")
    body = {**AUTOMATIC, "run": key, "batch": "clip per frame", "cost": True, "steps": True}
    answers = [answer_request({**body, "frame": place}) for place in (0, 3, 8)]
    assert len({answer["cost"] for answer in answers}) == 1
    for answer in answers:
        assert len(answer["plan"]["held"]) == answer["count"]
        assert answer["plan"]["windows"] == answers[0]["plan"]["windows"]


def test_another_choice_of_batch_than_that_of_the_run_is_said(clip):
    def ask(key, batch):
        return answer_request({**AUTOMATIC, "run": key, "batch": batch})

    _, key = run(clip[:5], AUTOMATIC, "clip")
    assert ask(key, "images")["other_batch"] and not ask(key, "clip maximum")["other_batch"]
    assert ask(key, "images")["frames"] is None
    _, key = run(clip[:5], AUTOMATIC, "images")
    assert ask(key, "clip")["other_batch"] and not ask(key, "images")["other_batch"]
    _, key = run(clip[:1], AUTOMATIC, "images")
    assert not ask(key, "clip")["other_batch"], "one image is the same either way"


@pytest.mark.parametrize("frame", [-1, 1.5, "2", None, True, 10**9])
def test_what_is_no_frame_is_refused_in_words(clip, frame):
    _, key = run(clip[:5], AUTOMATIC, "clip")
    with pytest.raises(ValueError, match=r"frame is .*; it must be a whole number"):
        answer_request({**AUTOMATIC, "run": key, "batch": "clip", "frame": frame})


@pytest.mark.parametrize("count", [1, 2, 5, 81, 1000])
def test_few_frames_of_a_long_clip_are_shown_and_no_tree_is_left_out_of_a_short_one(count):
    shown = list_shown_frames(count)
    assert shown[0] == 0 and shown == sorted(set(shown)) and len(shown) <= MOST_SHOWN
    assert shown[-1] >= 0.9 * (count - 8) and (
        count > 300 or len(shown) == 1 + -(-(count - 1) // 8)
    )


# --- Before a run ---------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of a video, and the nodes that read it."""
    for kind in (LoadVideo, VideoSlice, GetVideoComponents):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, kind.define_schema().node_id, kind)
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    save_clip(tmp_path / "moving.mp4", 13)
    return tmp_path / "moving.mp4"


def ask_about(file, batch, *through, **request):
    """Ask for the tree of a video's frames, through nodes that the picture passes on its way."""
    workflow = {"load": {"class_type": "LoadVideo", "inputs": {"file": file.name}}}
    last, name = "load", "video"
    for kind, inputs in (*through, ("QuadtreeVisualizer", {})):
        workflow[kind] = {"class_type": kind, "inputs": {**inputs, name: [last, 0]}}
        last, name = kind, "video" if kind == "Video Slice" else "image"
    shown = {"node": "QuadtreeVisualizer", "workflow": workflow, "batch": batch}
    return answer_request({**AUTOMATIC, **shown, **request})


FRAMES_OF_IT = ("GetVideoComponents", {})


@pytest.mark.parametrize("batch", ["clip", "clip maximum", "clip per frame"])
def test_before_a_run_each_frame_of_a_file_has_the_tree_and_picture_that_a_run_gives(
    file, temporary, batch
):
    frames = InputImpl.VideoFromFile(str(file)).get_components().images
    trees, _ = run(frames, AUTOMATIC, batch)
    for place, frame in enumerate(list_shown_frames(13)):
        answer = ask_about(file, batch, FRAMES_OF_IT, frame=place)
        tree = trees[frame] if isinstance(trees, FrameTrees) else trees[0]
        assert answer["tiles"] == tiles_of(tree) and answer["denoise"] == denoise_of(tree)
        assert answer["frames"] == {"shown": [0, 1, 9], "count": 13}
        assert answer["origin"] == "live" and not answer["other_batch"]
        assert find_nearest(temporary / answer["picture"]["filename"], frames) == frame


def test_before_a_run_the_frames_pass_nodes_as_in_the_run(file):
    slice_it = ("Video Slice", {"start_time": 0.0, "duration": 5 / 8, "strict_duration": False})
    twice = ("ImageScaleBy", {"upscale_method": "area", "scale_by": 2.0})
    answer = ask_about(file, "clip", slice_it, FRAMES_OF_IT, twice)
    assert answer["frames"]["count"] == 5
    assert (answer["width"], answer["height"]) == (384, 256)


def test_of_single_images_the_panel_reads_the_first_frame_alone(file, monkeypatch):
    frames = InputImpl.VideoFromFile(str(file)).get_components().images
    (tree,), _ = run(frames[:1], AUTOMATIC, "images")
    monkeypatch.setattr(passing, "MOST_PX", frames[0, ..., 0].numel())
    answer = ask_about(file, "images", FRAMES_OF_IT)
    assert answer["tiles"] == tiles_of(tree) and answer["frames"] is None
    answer = ask_about(file, "clip", FRAMES_OF_IT)
    assert answer["unknown"].startswith("The video has 13 frames of 192 x 128 px, too many")


def test_a_file_that_is_no_video_is_refused_in_words(file):
    file.write_bytes(b"no video")
    with pytest.raises(RequestError, match="cannot be read as a video"):
        ask_about(file, "clip", FRAMES_OF_IT)
