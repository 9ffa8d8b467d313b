"""The synthetic faces: rendered fast enough, faces to a detector, and not told apart by raw pixels.

Bars:
- ``images_per_second``: pictures of 250 x 250 pixels that one thread renders per second of processor time.
- ``one_face_share``: share of 500 pictures of 100 identities, 250 px, in which mtcnn 1.0.0 with its defaults finds
  exactly one face (boxes with a confidence of at least 0.9).
- ``landmark_error``: mean distance of its landmarks from the true ones, in distances between the eyes.
- ``raw_pixel_accuracy``: verification of unseen identities by the cosine of aligned raw pixels, mean-centred or not,
  whichever is better; with more than the bar there would be little left to learn.

``--quick`` shows the detector 200 pictures of 40 identities.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from faceflow.components.common.geometry import TEMPLATES, similarity_transform, warp
from faceflow.components.common.synthetic.cast import identity_seed
from faceflow.components.common.synthetic.pairs import Fold, make_folds
from faceflow.components.common.synthetic.render import Face, render
from measurement.bars import report
from measurement.machine import libraries, machine

SIZE_PX = 250
IMAGES_EACH = 5
KEYPOINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


def measure_speed(images: int) -> float:
    """Images per second of this process's processor time, single-threaded, identities of 20 images each."""
    cv2.setNumThreads(1)
    seeds = [(identity_seed(1, index // 20), index) for index in range(images)]
    render(*seeds[0], SIZE_PX)  # noise tiles are made once per process
    with threadpool_limits(1):
        begin = time.process_time()
        for identity, image in seeds:
            render(identity, image, SIZE_PX)
        return images / (time.process_time() - begin)


def detect(faces: list[Face]) -> tuple[float, list[float]]:
    """The share of images with one sure face, and the landmark error of each of those."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported
    from mtcnn import MTCNN

    detector, batch, errors = MTCNN(), 10, []
    for start in range(0, len(faces), batch):
        group = faces[start : start + batch]
        for face, boxes in zip(group, detector.detect_faces([face.image for face in group]), strict=True):
            sure = [box for box in boxes if box["confidence"] >= 0.9]
            if len(sure) == 1:
                points = np.array([sure[0]["keypoints"][name] for name in KEYPOINTS])
                between_eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
                errors.append(float(np.linalg.norm(points - face.landmarks, axis=1).mean() / between_eyes))
    return len(errors) / len(faces), errors


def raw_pixel_accuracy(crops: NDArray[np.float32], folds: list[Fold]) -> float:
    """Accuracy over folds of the cosine of crops (identities, images, pixels); thresholds come from the other folds."""
    unit = crops / np.linalg.norm(crops, axis=2, keepdims=True)
    scores = [np.array([[unit[a] @ unit[b] for a, b in pairs] for pairs in (f.same, f.different)]) for f in folds]
    rights = []
    for index, (same, different) in enumerate(scores):
        others = np.concatenate([each for k, each in enumerate(scores) if k != index], axis=1)
        thresholds = np.unique(others)
        accuracy = [(others[0] >= t).mean() + (others[1] < t).mean() for t in thresholds]
        best = thresholds[int(np.argmax(accuracy))]
        rights.append(((same >= best).mean() + (different < best).mean()) / 2)
    return float(np.mean(rights))


def aligned(face: Face) -> NDArray[np.float32]:
    """An aligned 112x112 crop as a vector of floats."""
    template = TEMPLATES["arcface_112"]
    crop = warp(face.image, similarity_transform(face.landmarks, template.points), template)
    return crop.astype(np.float32).ravel()


def main() -> int:
    """Measure, print, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer images: an answer within a minute")
    quick = parser.parse_args().quick
    print(machine(libraries("numpy", "mtcnn", "tensorflow"), f"OpenCV {cv2.__version__}"))

    speed = measure_speed(200 if quick else 500)
    identities = 40 if quick else 100
    faces = [render(identity_seed(2, i), image, SIZE_PX) for i in range(identities) for image in range(IMAGES_EACH)]
    crops = np.stack([aligned(face) for face in faces]).reshape(identities, IMAGES_EACH, -1)
    folds = make_folds([IMAGES_EACH] * identities, 0)
    plain = raw_pixel_accuracy(crops, folds)
    centred = raw_pixel_accuracy(crops - crops.mean((0, 1)), folds)
    share, errors = detect(faces)

    print(f"images {len(faces)}, identities {identities}, pairs {sum(2 * len(fold.same) for fold in folds)}")
    print(f"landmark error: median {np.median(errors):.3f}, 95th percentile {np.percentile(errors, 95):.3f}")
    print(f"raw-pixel cosine {plain:.3f}, mean-centred {centred:.3f}")
    bars = (
        ("images_per_second", speed, ">=", 60.0),
        ("one_face_share", share, ">=", 0.97),
        ("landmark_error", float(np.mean(errors)), "<", 0.10),
        ("raw_pixel_accuracy", max(plain, centred), "<=", 0.75),
    )
    return report(bars)


if __name__ == "__main__":
    sys.exit(main())
