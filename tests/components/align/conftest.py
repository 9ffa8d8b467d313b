"""Raw datasets for the tests of align."""

import io

import numpy as np
import pytest
from PIL import Image

from faceflow.components.common.dataset import Dataset, ShardWriter, finish, publishing
from faceflow.components.common.images import inspect
from faceflow.components.common.record import Record


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def encode():
    return encoded


@pytest.fixture
def raw(tmp_path):
    """Writes records, given as (key, image bytes, landmarks) or as Record, and returns the dataset's path."""

    def make(*faces, shards=1, template=None, name="raw", attachment=None):
        with publishing(tmp_path / name) as directory:
            for shard in range(shards):
                with ShardWriter(directory, shard, stage="download") as out:
                    for face in faces[shard::shards]:
                        record = face if isinstance(face, Record) else _record(*face)
                        out.write(record)
                        out.kept(record.key, record.identity)
            attachments = []
            if attachment is not None:
                (directory / "pairs.csv").write_text(attachment)
                attachments = [directory / "pairs.csv"]
            finish(
                directory,
                stage="download",
                settings={},
                template=template,
                inputs={"source": {"name": "people"}},
                images_in=len(faces),
                attachments=attachments,
            )
        return tmp_path / name

    return make


def _record(key, image, landmarks=None):
    try:
        header = inspect(image)
        width, height = header.width, header.height
    except Exception:
        width = height = 1
    points = None if landmarks is None else np.asarray(landmarks, np.float32)
    identity = "people/" + key.split("/")[1]
    return Record(key=key, identity=identity, image=image, height=height, width=width, landmarks=points)


@pytest.fixture
def align(tmp_path):
    """Runs the stage and returns the aligned dataset."""
    from faceflow.components.align import stage

    def run(path, name="aligned", **settings):
        outputs = stage.Outputs(tmp_path / name, tmp_path / f"{name}.html")
        stage.run(stage.Settings(**settings), stage.Inputs(path), outputs)
        return Dataset(tmp_path / name)

    return run
