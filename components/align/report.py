"""The report of the align stage: faces before and after, what was dropped and why, the mean face."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.align.samples import KEPT, SIZE_EDGES, Samples, letterbox
from faceflow.components.common.geometry import Template
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.reports import PALETTE, Report, figure

_SIZE_TICKS = [tick for power in (16, 64, 256, 1024) for tick in (power, power * 3 // 2, power * 2, power * 3)]
_MEANINGS = {
    "undecodable": "the file is truncated or damaged",
    "not_an_image": "the file is no image",
    "too_large": "more pixels than allowed",
    "no_face": "no face was found",
    "bad_landmarks": "the source's landmarks cannot be a face's: mirrored, outside the image, all in one place",
    "several_faces": "more than one face was found",
    "low_score": "the detector was not sure enough",
    "too_small": "the face spans too few pixels",
}
_MARKED = {
    "several_faces": "Red: the faces that were found.",
    "low_score": "Red: what might have been a face.",
    "bad_landmarks": "Numbered as given: 1 must be the image-left eye, 2 the image-right eye, 3 the nose, 4 and 5 the "
    "image-left and image-right corner of the mouth.",
}
_FRAMINGS = {
    "landmarks": "Green: the five landmarks; yellow: the frame that is cut out.",
    "dlib_chip": "Green: dlib's five points; yellow: the frame that is cut out.",
    "three_points": "Green: the three of dlib's points that fix the frame; yellow: the frame that is cut out.",
    "box": "Green: the box that was found, and the landmarks; yellow: the box with its margin, which is cut out.",
}
# So that two columns fit into the 470 pixels of KFP's run page.
_PAIR_PX = 212
_DROPPED_PX = 138


def write_report(manifest: Manifest, samples: Samples, template: Template, *, source: str, path: Path) -> None:
    """Write the report.

    Args:
        manifest: Of the aligned dataset.
        samples: What was gathered on the way.
        template: The template.
        source: Name of the source.
        path: The page to write.
    """
    report = Report(f"Aligned faces: {source}", _summary(manifest, template))
    report.facts(
        {
            "faces": manifest.images,
            "images in": manifest.images_in,
            "dropped": sum(manifest.drops.values()),
            "identities": manifest.identities,
            "aligned size": f"{template.width}x{template.height}",
        }
    )
    if samples.faces:
        _mean_face(report, samples, template)
    chosen = samples.pictures.get(KEPT, [])
    cells = [(picture, _short(caption)) for _, caption, picture in sorted(chosen, key=lambda each: each[1])]
    if cells and cells[0][0].shape[0] != cells[0][0].shape[1]:
        note = f"Left the face in its image, right the aligned face. {_FRAMINGS[template.framing]}"
        report.images("Before and after", cells, columns=4, note=note, width_px=_PAIR_PX)
    elif cells:
        note = "These images came aligned and were passed on untouched."
        report.images("Faces", cells, columns=8, note=note)
    if manifest.drops:
        rows = [
            [reason, count, f"{count / manifest.images_in:.2%}", _MEANINGS.get(reason, "")]
            for reason, count in sorted(manifest.drops.items(), key=lambda each: -each[1])
        ]
        report.table("What was dropped", ["reason", "images", "share", "meaning"], rows)
        for reason, _, _, _ in rows:
            examples = samples.pictures.get(str(reason), [])
            if examples:
                shown = [(picture, _short(caption)) for _, caption, picture in examples]
                report.images(
                    f"Dropped: {reason}", shown, columns=6, note=_MARKED.get(str(reason), ""), width_px=_DROPPED_PX
                )
    if samples.scores.sum():
        _histogram(report, "Detector scores", samples.scores, samples.score_edges, "score", log=False)
    if samples.sizes.sum():
        _histogram(
            report, "Face sizes", samples.sizes, SIZE_EDGES, "pixels of the original across the aligned face", log=True
        )
    report.write(path)


def _summary(manifest: Manifest, template: Template) -> str:
    if not manifest.images_in:
        return "This source has no images of its own: evaluate scores the identities that augment held out."
    share = manifest.images / manifest.images_in
    return (
        f"{manifest.images:,} of {manifest.images_in:,} images ({share:.1%}) lie on the template {template.name} "
        f"({template.origin})."
    )


def _short(key: str) -> str:
    """A key, or what begins with one, without its source's name, which is in the title."""
    return key.partition("/")[2]


def _mean_face(report: Report, samples: Samples, template: Template) -> None:
    mean = samples.mean_face
    pictures = [(letterbox(mean)[0], f"mean of {samples.faces:,} faces")]
    if template.landmarks:
        pictures.append((_marked(mean, template), "the marks"))
        note = "Eyes, nose and mouth must stand out at the marks of the template: a blur is a sign of bad alignment."
    else:
        note = "A face must stand out. It is softer than with other templates, as faces are not turned upright."
    report.images("The mean face", pictures, columns=2, note=note, width_px=168)


def _marked(mean: NDArray[np.uint8], template: Template) -> NDArray[np.uint8]:
    picture, scale, shift = letterbox(mean)
    for x, y in np.round(template.points * scale + shift).astype(int).tolist():
        cv2.drawMarker(picture, (x, y), (255, 255, 255), cv2.MARKER_CROSS, 14, 3, cv2.LINE_AA)
        cv2.drawMarker(picture, (x, y), (30, 110, 220), cv2.MARKER_CROSS, 12, 1, cv2.LINE_AA)
    return picture


def _histogram(
    report: Report, heading: str, counts: NDArray[np.int64], edges: NDArray[np.float64], label: str, *, log: bool
) -> None:
    drawn, axes = figure(height=2.4)
    axes.stairs(counts, edges, fill=True, color=PALETTE[0], alpha=0.85)
    used = np.flatnonzero(counts)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_xticks(_SIZE_TICKS, [str(tick) for tick in _SIZE_TICKS])
    axes.set_xlim(edges[max(0, used[0] - 4)], edges[min(len(edges) - 1, used[-1] + 5)])
    axes.set_xlabel(label)
    axes.set_ylabel("faces")
    report.figure(heading, drawn)
