"""Gender and age can be seen: a linear model learns them from small pictures and finds them on people it never met."""

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from faceflow.components.common.geometry import TEMPLATES, similarity_transform, warp
from faceflow.components.common.synthetic.render import render

PEOPLE, TRAIN = 240, 160
TEMPLATE = TEMPLATES["arcface_112"]


@pytest.fixture(scope="module")
def people():
    faces = [render(seed, 1, 128) for seed in range(PEOPLE)]
    crops = [warp(face.image, similarity_transform(face.landmarks, TEMPLATE.points), TEMPLATE) for face in faces]
    small = np.stack([cv2.resize(crop, (24, 24), interpolation=cv2.INTER_AREA).ravel() for crop in crops])
    return small / 255.0, np.array([f.gender == "male" for f in faces]), np.array([f.age for f in faces])


def test_gender_shows(people):
    pixels, male, _ = people
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(pixels[:TRAIN], male[:TRAIN])
    assert model.score(pixels[TRAIN:], male[TRAIN:]) > 0.72  # chance: 0.5 +- 0.056 for 80 people


def test_age_shows(people):
    pixels, _, age = people
    model = make_pipeline(StandardScaler(), Ridge(alpha=3000.0)).fit(pixels[:TRAIN], age[:TRAIN])
    assert np.corrcoef(model.predict(pixels[TRAIN:]), age[TRAIN:])[0, 1] > 0.5  # chance: 0 +- 0.11
