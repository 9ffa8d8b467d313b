"""What the report shows, gathered while the shards are worked on: a few pictures, the mean face, two histograms.

Pictures are chosen by a hash of their keys, so the choice hangs on neither shards nor workers.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.common import files
from faceflow.components.common.geometry import Template
from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.ledger import Reason

Image = NDArray[np.uint8]

SIDE = 224
_KEPT = 24
_DROPPED = 6
_DOT = (70, 220, 110)
_FRAME = (255, 205, 70)
_REFUSED = (225, 60, 50)
_PAPER = 245

MTCNN_SCORES = np.linspace(0.8, 1.0, 41)
DLIB_SCORES = np.linspace(-0.5, 4.0, 46)
SIZE_EDGES = 2.0 ** np.arange(4, 12.01, 0.125)
KEPT = "kept"
_SIZES = SIZE_EDGES.tolist()
# Of the side of the frame that is cut out, as much of the image is shown around a face.
_CONTEXT = 2.2


class Samples:
    """Gathers what the report shows.

    Args:
        template: The template of the aligned faces.
        score_edges: The bins of the scores, rising.

    Attributes:
        pictures: For ``kept`` and each drop reason, the chosen (hash, caption, picture), smallest hash first. Filled by
            :meth:`merge`.
        total: (H, W, 3) sum of the aligned faces.
        faces: How many.
        score_edges: The bins of the scores.
        scores: Counts of detector scores in them.
        sizes: Counts of face sizes, in pixels of the original, in ``SIZE_EDGES``.
    """

    def __init__(self, template: Template, score_edges: NDArray[np.float64] = MTCNN_SCORES) -> None:
        """Begin with nothing."""
        self.pictures: dict[str, list[tuple[int, str, Image]]] = {}
        self.total = np.zeros((template.height, template.width, 3))
        self.faces = 0
        self.score_edges = score_edges
        self.scores = np.zeros(len(score_edges) - 1, np.int64)
        self._score_edges: list[float] = score_edges.tolist()
        self.sizes = np.zeros(len(SIZE_EDGES) - 1, np.int64)
        self._chosen: dict[str, list[tuple[int, str, Callable[[], Image]]]] = {}

    def add_face(
        self, key: str, aligned: Image, score: float | None, size: float | None, draw: Callable[[], Image]
    ) -> None:
        """Take an aligned face in.

        Args:
            key: Its key.
            aligned: Its pixels.
            score: The detector's score, if one ran.
            size: Pixels of the original that the aligned face spans across, if it was aligned here.
            draw: Draws the picture to show, should it be chosen; called at the end.
        """
        cv2.accumulate(aligned, self.total)
        self.faces += 1
        if score is not None:
            _count(score, self._score_edges, self.scores)
        if size is not None:
            _count(size, _SIZES, self.sizes)
        rank = self._rank(KEPT, key)
        if rank is not None:
            self._choose(KEPT, rank, key, draw)

    def add_drop(
        self,
        key: str,
        reason: Reason,
        detail: str,
        image: Image | None,
        points: NDArray[np.float64] | None = None,
        boxes: Sequence[NDArray[np.float64]] = (),
    ) -> None:
        """Take a dropped image in.

        Args:
            key: Its key.
            reason: Why it was dropped.
            detail: The same in words.
            image: Its pixels, if they could be decoded.
            points: (N, 2) the landmarks that were refused; they are numbered in the picture.
            boxes: (4,) each, the faces that were refused.
        """
        group = str(reason)
        rank = self._rank(group, key)
        if rank is not None:
            picture = blank() if image is None else _refused(image, points, boxes)
            self._choose(group, rank, f"{key}: {detail}" if detail else key, lambda: picture)

    def _rank(self, group: str, key: str) -> int | None:
        """The hash of a key, if it is among the smallest of its group so far."""
        chosen = self._chosen.get(group, [])
        rank = stable_hash("report", key)
        return rank if len(chosen) < _most(group) or rank < chosen[-1][0] else None

    def _choose(self, group: str, rank: int, caption: str, draw: Callable[[], Image]) -> None:
        chosen = self._chosen.setdefault(group, [])
        chosen.append((rank, caption, draw))
        chosen.sort(key=lambda each: each[:2])
        del chosen[_most(group) :]

    def save(self, location: files.Location) -> None:
        """Write everything to an ``.npz``."""
        arrays: dict[str, NDArray[np.generic]] = {
            "total": self.total, "faces": np.array(self.faces), "scores": self.scores, "sizes": self.sizes,
        }  # fmt: skip
        for group, chosen in self._chosen.items():
            arrays[f"rank:{group}"] = np.array([rank for rank, _, _ in chosen], np.uint64)
            arrays[f"caption:{group}"] = np.array([caption for _, caption, _ in chosen])
            arrays[f"picture:{group}"] = np.stack([draw() for _, _, draw in chosen])
        with files.create(location) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def merge(self, paths: Iterable[Path]) -> None:
        """Take in what :meth:`save` wrote for other shards."""
        for path in paths:
            with np.load(path, allow_pickle=False) as stored:
                self.total += stored["total"]
                self.faces += int(stored["faces"])
                self.scores += stored["scores"]
                self.sizes += stored["sizes"]
                for name in stored.files:
                    kind, _, group = name.partition(":")
                    if kind == "rank":
                        ranks, captions = stored[name].tolist(), stored[f"caption:{group}"].tolist()
                        offered = zip(ranks, captions, stored[f"picture:{group}"], strict=True)
                        both = [*self.pictures.get(group, []), *offered]
                        self.pictures[group] = heapq.nsmallest(_most(group), both, key=lambda each: each[:2])

    @property
    def mean_face(self) -> Image:
        """(H, W, 3) mean of the aligned faces."""
        return np.asarray(np.round(self.total / max(1, self.faces)), np.uint8)


def score_edges(landmarks: str) -> NDArray[np.float64]:
    """The bins for the scores of the detector that a setting of ``landmarks`` means."""
    return DLIB_SCORES if landmarks == "dlib" else MTCNN_SCORES


def _count(value: float, edges: list[float], counts: NDArray[np.int64]) -> None:
    """Count a value in a histogram; one beyond its ends goes into the outermost bin."""
    counts[min(max(bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1


def _most(group: str) -> int:
    return _KEPT if group == KEPT else _DROPPED


def blank() -> Image:
    """What stands for an image that has no pixels to show."""
    picture = np.full((SIDE, SIDE, 3), 236, np.uint8)
    cv2.line(picture, (60, 60), (SIDE - 60, SIDE - 60), (190, 190, 190), 3, cv2.LINE_AA)
    cv2.line(picture, (SIDE - 60, 60), (60, SIDE - 60), (190, 190, 190), 3, cv2.LINE_AA)
    return picture


def letterbox(image: Image) -> tuple[Image, float, NDArray[np.float64]]:
    """Fit an image into a square of ``SIDE`` pixels; returns it, the scale and the (2,) shift of its points."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    picture = np.full((SIDE, SIDE, 3), _PAPER, np.uint8)
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    picture[top : top + size[1], left : left + size[0]] = small
    return picture, scale, np.array([left, top], np.float64)


def before_and_after(
    image: Image,
    points: NDArray[np.float64],
    frame: NDArray[np.float64],
    aligned: Image,
    box: NDArray[np.float64] | None = None,
) -> Image:
    """Two squares side by side: the face in the original, with its landmarks and the frame, and the aligned face.

    Args:
        image: (H, W, 3) the original.
        points: (N, 2) the points to mark in the original.
        frame: (4, 2) corners of the aligned image in the original.
        aligned: (h, w, 3) the aligned face.
        box: (4,) the box that was found, if that is what fixed the frame.
    """
    part, corner = _surroundings(image, frame)
    before, scale, shift = letterbox(part)
    shift = shift + (0.5 - corner) * scale - 0.5
    corners = np.round(frame * scale + shift).astype(np.int32)
    cv2.polylines(before, [corners], True, _FRAME, 2, cv2.LINE_AA)
    if box is not None:
        _outline(before, box * scale + np.tile(shift, 2), _DOT)
    for x, y in np.round(points * scale + shift).astype(int).tolist():
        cv2.circle(before, (x, y), 4, (20, 20, 20), -1, cv2.LINE_AA)
        cv2.circle(before, (x, y), 3, _DOT, -1, cv2.LINE_AA)
    gap = np.full((SIDE, 8, 3), 255, np.uint8)
    return np.hstack([before, gap, letterbox(aligned)[0]])


def _surroundings(image: Image, frame: NDArray[np.float64]) -> tuple[Image, NDArray[np.float64]]:
    """The part of an image around a frame, white where it has none, and the (2,) place of its corner in the image."""
    height, width = image.shape[:2]
    # All that there is to see, image and frame; the square shows no more than that, and as much of it as it can.
    least, most = np.minimum(frame.min(0), 0), np.maximum(frame.max(0), [width, height])
    side = min(_CONTEXT * float(np.ptp(frame, axis=0).max()), float((most - least).max()))
    reach = int(np.ceil(side / 2)) + 1
    centre = (frame.max(0) + frame.min(0)) / 2
    spare = np.maximum((most - least) / 2 - reach, 0)
    middle = (most + least) / 2
    corner = np.round(np.clip(centre, middle - spare, middle + spare) - reach).astype(int)
    wide = np.full((2 * reach, 2 * reach, 3), _PAPER, np.uint8)
    from_, to = np.maximum(corner, 0), np.minimum(corner + 2 * reach, [width, height])
    if (to > from_).all():
        (left, top), (right, bottom) = from_ - corner, to - corner
        wide[top:bottom, left:right] = image[from_[1] : to[1], from_[0] : to[0]]
    return wide, corner.astype(np.float64)


def _refused(image: Image, points: NDArray[np.float64] | None, boxes: Sequence[NDArray[np.float64]]) -> Image:
    """An image that was dropped, with the boxes or numbered landmarks that were refused."""
    picture, scale, shift = letterbox(image)
    shift = shift + 0.5 * scale - 0.5
    for box in boxes:
        _outline(picture, box * scale + np.tile(shift, 2), _REFUSED)
    if points is not None and np.isfinite(points).all():
        for number, (x, y) in enumerate(np.clip(points * scale + shift, -SIDE, 2 * SIDE).round().astype(int).tolist()):
            cv2.circle(picture, (x, y), 4, _REFUSED, -1, cv2.LINE_AA)
            place = (x + 5, y + 5)
            for colour, thickness in (((255, 255, 255), 4), (_REFUSED, 1)):
                cv2.putText(
                    picture, str(number + 1), place, cv2.FONT_HERSHEY_SIMPLEX, 0.65, colour, thickness, cv2.LINE_AA
                )
    return picture


def _outline(picture: Image, box: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = np.clip(box, -SIDE, 2 * SIDE).round().astype(int).tolist()
    cv2.rectangle(picture, (left, top), (right, bottom), colour, 2, cv2.LINE_AA)
