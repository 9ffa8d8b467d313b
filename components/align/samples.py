"""What the report shows, gathered while the shards are worked on: a few pictures, the mean face, two histograms.

Pictures are chosen by a hash of their keys, so the choice hangs on neither shards nor workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.geometry import Template
from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.ledger import Reason

Image = NDArray[np.uint8]

SIDE = 224
_KEPT = 24
_DROPPED = 6
_DOT = (70, 220, 110)
_FRAME = (255, 205, 70)

SCORE_EDGES = np.linspace(0.8, 1.0, 41)
SIZE_EDGES = 2.0 ** np.arange(4, 12.01, 0.125)
KEPT = "kept"


class Samples:
    """Gathers what the report shows.

    Args:
        template: The template of the aligned faces.

    Attributes:
        pictures: For ``kept`` and each drop reason, the chosen (hash, caption, picture), smallest hash first.
        total: (H, W, 3) sum of the aligned faces.
        faces: How many.
        scores: Counts of detector scores in ``SCORE_EDGES``.
        sizes: Counts of face sizes, in pixels of the original, in ``SIZE_EDGES``.
    """

    def __init__(self, template: Template) -> None:
        """Begin with nothing."""
        self.pictures: dict[str, list[tuple[int, str, Image]]] = {}
        self.total = np.zeros((template.height, template.width, 3))
        self.faces = 0
        self.scores = np.zeros(len(SCORE_EDGES) - 1, np.int64)
        self.sizes = np.zeros(len(SIZE_EDGES) - 1, np.int64)

    def add_face(
        self, key: str, aligned: Image, score: float | None, size: float | None, draw: Callable[[], Image]
    ) -> None:
        """Take an aligned face in.

        Args:
            key: Its key.
            aligned: Its pixels.
            score: The detector's score, if one ran.
            size: Pixels of the original that the aligned face spans across, if it was aligned here.
            draw: Draws the picture to show, should it be chosen.
        """
        self.total += aligned
        self.faces += 1
        if score is not None:
            self.scores += np.histogram(np.clip(score, SCORE_EDGES[0], SCORE_EDGES[-1]), SCORE_EDGES)[0]
        if size is not None:
            self.sizes += np.histogram(np.clip(size, SIZE_EDGES[0], SIZE_EDGES[-1]), SIZE_EDGES)[0]
        self._offer(KEPT, key, draw)

    def add_drop(self, key: str, reason: Reason, detail: str, image: Image | None) -> None:
        """Take a dropped image in.

        Args:
            key: Its key.
            reason: Why it was dropped.
            detail: The same in words.
            image: Its pixels, if they could be decoded.
        """

        def draw() -> Image:
            return blank() if image is None else letterbox(image)[0]

        self._offer(str(reason), key, draw, detail)

    def _offer(self, group: str, key: str, draw: Callable[[], Image], detail: str = "") -> None:
        chosen = self.pictures.setdefault(group, [])
        most, rank = _most(group), stable_hash("report", key)
        if len(chosen) == most and rank >= chosen[-1][0]:
            return
        chosen.append((rank, f"{key}: {detail}" if detail else key, draw()))
        chosen.sort(key=lambda each: each[:2])
        del chosen[most:]

    def save(self, path: Path) -> None:
        """Write everything to an ``.npz``."""
        arrays: dict[str, NDArray[np.generic]] = {
            "total": self.total, "faces": np.array(self.faces), "scores": self.scores, "sizes": self.sizes,
        }  # fmt: skip
        for group, chosen in self.pictures.items():
            arrays[f"rank:{group}"] = np.array([rank for rank, _, _ in chosen], np.uint64)
            arrays[f"caption:{group}"] = np.array([caption for _, caption, _ in chosen])
            arrays[f"picture:{group}"] = np.stack([picture for _, _, picture in chosen])
        with open(path, "wb") as file:
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
    picture = np.full((SIDE, SIDE, 3), 245, np.uint8)
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    picture[top : top + size[1], left : left + size[0]] = small
    return picture, scale, np.array([left, top], np.float64)


def before_and_after(image: Image, landmarks: NDArray[np.float64], frame: NDArray[np.float64], aligned: Image) -> Image:
    """Two squares side by side: the original with its landmarks and the frame that is cut out, and the aligned face.

    Args:
        image: (H, W, 3) the original.
        landmarks: (5, 2) in the original.
        frame: (4, 2) corners of the aligned image in the original.
        aligned: (h, w, 3) the aligned face.
    """
    height, width = image.shape[:2]
    # The frame may reach beyond the image: show it whole, unless it dwarfs the image.
    least = np.clip(np.floor(frame.min(0)), [-width, -height], 0).astype(int)
    most = np.clip(np.ceil(frame.max(0)) + 1, [width, height], [2 * width, 2 * height]).astype(int)
    wide = np.full((most[1] - least[1], most[0] - least[0], 3), 245, np.uint8)
    wide[-least[1] : height - least[1], -least[0] : width - least[0]] = image
    before, scale, shift = letterbox(wide)
    shift = shift - least * scale
    corners = np.round(frame * scale + shift).astype(np.int32)
    cv2.polylines(before, [corners], True, _FRAME, 2, cv2.LINE_AA)
    for x, y in np.round(landmarks * scale + shift).astype(int).tolist():
        cv2.circle(before, (x, y), 4, (20, 20, 20), -1, cv2.LINE_AA)
        cv2.circle(before, (x, y), 3, _DOT, -1, cv2.LINE_AA)
    gap = np.full((SIDE, 8, 3), 255, np.uint8)
    return np.hstack([before, gap, letterbox(aligned)[0]])
