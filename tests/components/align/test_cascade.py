"""Parts of the cascade against plain loops and closed forms; without TensorFlow."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceflow.components.align.cascade import detector, suppression
from faceflow.components.align.cascade.candidates import cells, crops
from faceflow.components.align.cascade.detector import Cascade
from faceflow.components.align.cascade.pyramid import Pyramid, _arranged, levels, sheets
from faceflow.components.align.cascade.suppression import suppress
from faceflow.components.common.synthetic.render import render


def suppressed_one_by_one(boxes, scores, groups, most, of_smaller):
    """What stays, by the definition: no better box of the group overlaps too much."""
    kept = []
    for i, a in enumerate(boxes):
        beaten = False
        for j, b in enumerate(boxes):
            better = scores[j] > scores[i] or (scores[j] == scores[i] and j < i)
            if groups[i] != groups[j] or not better:
                continue
            width, height = (max(0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
            whole = min(areas) if of_smaller else sum(areas) - width * height
            beaten |= width * height > most * whole
        if not beaten:
            kept.append(i)
    return sorted(kept, key=lambda i: (groups[i], -scores[i], i))


places = st.integers(0, 30)
boxes_of_groups = st.lists(
    st.tuples(places, places, st.integers(1, 20), st.integers(1, 20), st.integers(0, 5), st.integers(0, 3)), max_size=40
)


@settings(max_examples=60)
@given(boxes_of_groups, st.sampled_from([0.0, 0.3, 0.5, 0.7]), st.booleans(), st.sampled_from([1 << 19, 64, 1]))
def test_suppression_is_that_of_a_plain_loop(values, most, of_smaller, pairs_at_once):
    left, top, width, height, score, group = np.array(values, np.int64).reshape(-1, 6).T
    boxes = np.stack([left, top, left + width, top + height], 1).astype(float)
    scores = score.astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suppression, "_PAIRS_AT_ONCE", pairs_at_once)
        kept = suppress(boxes, scores, group, most, of_smaller=of_smaller)
    assert kept.tolist() == suppressed_one_by_one(boxes, scores, group, most, of_smaller)


def test_levels_are_left_out_by_the_size_of_the_image():
    sides = {share: [level.height for level in levels(400, 600, share)] for share in (0, 0.05, 0.0708, 0.1, 0.5, 1)}
    assert sides[0] == [240, 170, 120, 85, 60, 42, 30, 21, 15]
    assert sides[0.05] == sides[0]  # the second level begins at 28.2 pixels, more than 20
    assert sides[0.0708] == sides[0][1:]
    assert sides[0.1] == sides[0][2:]  # 39.8 pixels of 40
    assert sides[0.5] == sides[0][6:]
    assert sides[1] == sides[0][8:]  # the largest face that is searched for is found on the last level
    assert [level.height for level in levels(250, 250, 0.1)] == [150, 106, 75, 53, 37, 26, 19, 13]
    assert levels(14, 900, 0.0) == ()


@pytest.mark.parametrize("height, width", [(400, 400), (113, 640), (97, 51), (24, 1000)])
def test_the_pyramid_averages_areas(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.float32)
    found = levels(height, width, 0.0)
    pyramid = Pyramid(height, width, found)
    canvas = np.full((*pyramid.canvas, 3), np.nan, np.float32)
    pyramid.draw(image, canvas)

    def integral(level):
        """Means over the cells of a level's grid, by sums of whole pixels and interpolation between them."""
        sums = np.zeros((height + 1, width + 1, 3))
        sums[1:, 1:] = image.astype(np.float64).cumsum(0).cumsum(1)
        for axis, (side, small) in enumerate(((height, level.height), (width, level.width))):
            at = np.arange(small + 1) * (side / small)
            low = np.minimum(at.astype(int), side - 1)
            part = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            sums = np.take(sums, low, axis) * (1 - part) + np.take(sums, low + 1, axis) * part
            sums = np.diff(sums, axis=axis) / (side / small)
        return sums

    for level, (top, left) in zip(found, pyramid.corners, strict=True):
        shown = canvas[top : top + level.height, left : left + level.width]
        np.testing.assert_allclose(shown, integral(level), atol=5e-3)


@settings(max_examples=40)
@given(st.integers(24, 1024), st.integers(24, 1024), st.sampled_from([0.0, 0.1]))
def test_levels_do_not_overlap_on_the_canvas_and_cells_stay_on_theirs(height, width, share):
    found = levels(height, width, share)
    if not found:
        return
    sizes = [(level.height + level.height % 2, level.width + level.width % 2) for level in found]
    corners, (down, across) = _arranged(sizes)
    used = np.zeros((down, across), int)
    for (top, left), (rows, columns) in zip(corners, sizes, strict=True):
        assert top % 2 == left % 2 == 0 and top + rows <= down and left + columns <= across
        used[top : top + rows, left : left + columns] += 1
    assert used.max() == 1
    if min(height, width) > 200:
        assert used.mean() > 0.85
    pyramid = Pyramid(height, width, found)
    grid = cells(pyramid)
    columns_out = (pyramid.canvas[1] - 1) // 2 - 4
    row, column = np.divmod(grid.place, columns_out)
    for number, ((top, left), (rows, columns)) in enumerate(zip(corners, sizes, strict=True)):
        own = grid.level == number
        assert row[own].min() * 2 == top and row[own].max() * 2 + 12 <= top + rows
        assert column[own].min() * 2 == left and column[own].max() * 2 + 12 <= left + columns
    assert len(np.unique(grid.place)) == len(grid.place)


def test_many_crops_of_one_image_are_drawn():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.float32)
    boxes = np.tile([[10.0, 5.0, 40.0, 35.0]], (1500, 1))
    drawn = crops([image], np.zeros(1500, np.int64), boxes, 24)
    assert drawn.shape == (1500, 24, 24, 3) and (drawn == drawn[0]).all()
    # The first sample lies at the corner, by the package's reckoning.
    x, y = 10 * 79 / 80, 5 * 59 / 60
    below, right = np.array([1 - y % 1, y % 1]), np.array([1 - x % 1, x % 1])
    np.testing.assert_allclose(drawn[0, 0, 0], np.einsum("i,j,ijc", below, right, image[4:6, 9:11]), rtol=1e-4)


def test_what_is_found_in_an_image_does_not_hang_on_the_others_to_the_bit():
    pictures = [render(9000 + who, 0, size).image for who, size in enumerate((250, 180, 250, 400, 301))]
    pictures.append(np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8))
    pictures.append(pictures[0][:200])  # cut at the chin: many candidates
    cascade = Cascade()
    together = cascade.find(pictures, 0.0)
    backwards = Cascade().find(pictures[::-1], 0.0)
    assert len(together.owners) >= 5
    for index, picture in enumerate(pictures):
        alone = cascade.find([picture], 0.0)
        ours, theirs = together.owners == index, backwards.owners == len(pictures) - 1 - index
        for name in ("boxes", "scores", "landmarks"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[ours])
            np.testing.assert_array_equal(getattr(alone, name), getattr(backwards, name)[theirs])


def test_the_networks_run_without_tensorflow_connections_or_files(tmp_path):
    """OpenVINO brings a package for telemetry, which it uses when it converts models."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('a connection was opened')\n"
        "socket.socket.connect = socket.socket.connect_ex = refuse\n"
        "import numpy as np\n"
        "from faceflow.components.align.cascade.detector import Cascade\n"
        "Cascade().find([np.zeros((60, 60, 3), np.uint8)], 0.0)\n"
        "print(sorted(set(sys.modules) & {'tensorflow', 'mtcnn'}))\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("height, width, share", [(400, 400, 0.0), (400, 400, 0.1), (97, 640, 0.0), (30, 30, 0.0)])
def test_every_level_is_on_one_sheet_in_its_order(height, width, share):
    found = levels(height, width, share)
    divided = sheets(found)
    assert [level for sheet in divided for level in sheet] == list(found)
    assert all(len(sheet) == 1 for sheet in divided[:-1])


def test_sheets_give_the_faces_that_one_canvas_gives(monkeypatch):
    picture = render(5, 0, 400).image
    found = Cascade().find([picture], 0.0)
    detector._plan.cache_clear()
    monkeypatch.setattr(detector, "sheets", lambda levels: [levels])
    together = Cascade().find([picture], 0.0)
    detector._plan.cache_clear()
    for name in ("owners", "boxes", "scores", "landmarks"):
        np.testing.assert_allclose(getattr(found, name), getattr(together, name), atol=1e-3)
    assert len(found.owners)
