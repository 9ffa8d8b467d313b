"""TensorFlow and tfx-bsl as oracles for our framing, our Example encoding and the checked-in schema."""

import numpy as np
import pytest

from faceflow.components.common import tfrecord
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.record import SCHEMA_PATH, Record, peek

FULL = Record(
    key="msra/m.0107_f/10-FaceId-0 äé.jpg",
    identity="msra/m.0107_f",
    image=bytes(range(256)),
    height=400,
    width=300,
    landmarks=np.linspace(0.5, 399.25, 10, dtype=np.float32).reshape(5, 2),
    score=0.875,
    variant="opening",
    label=180_854,
    gender="female",
    age=31.5,
    box=np.array([175, -2.5, 310.25, 248], np.float32),
)
BARE = Record(key="a/b/c.png", identity="a/b", image=b"", height=1, width=1)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "faces.tfrecord"
    with tfrecord.Writer(path) as writer:
        for record in (FULL, BARE):
            writer.write(record.encode())
    return path


def test_tensorflow_reads_what_we_write(shard):
    import tensorflow as tf

    payloads = [element.numpy() for element in tf.data.TFRecordDataset(str(shard))]
    assert payloads == [FULL.encode(), BARE.encode()]
    full = tf.train.Example.FromString(payloads[0]).features.feature
    assert full["key"].bytes_list.value[0].decode() == FULL.key
    assert full["image/encoded"].bytes_list.value[0] == FULL.image
    assert (full["image/height"].int64_list.value[0], full["image/width"].int64_list.value[0]) == (400, 300)
    assert list(full["landmarks"].float_list.value) == FULL.landmarks.ravel().tolist()
    assert list(full["box"].float_list.value) == [175, -2.5, 310.25, 248]
    assert full["label"].int64_list.value[0] == 180_854
    assert full["detector/score"].float_list.value[0] == 0.875
    bare = tf.train.Example.FromString(payloads[1]).features.feature
    assert set(bare) == {"key", "identity", "image/encoded", "image/height", "image/width", "variant"}


def test_we_read_what_tensorflow_writes(tmp_path):
    import tensorflow as tf

    path = tmp_path / "theirs.tfrecord"
    payloads = [FULL.encode(), b"", b"x" * 100_000]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in payloads:
            writer.write(payload)
    assert list(tfrecord.read(path)) == payloads


def test_tfx_bsl_reads_shards_through_the_schema(shard):
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    schema = text_format.Parse(SCHEMA_PATH.read_text(), schema_pb2.Schema())
    batch = ExamplesToRecordBatchDecoder(schema.SerializeToString()).DecodeBatch(list(tfrecord.read(shard)))
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    assert set(columns) == {feature.name for feature in schema.feature}
    assert columns["key"].to_pylist() == [[FULL.key.encode()], [BARE.key.encode()]]
    assert columns["label"].to_pylist() == [[180_854], None]
    assert columns["landmarks"].to_pylist()[0] == FULL.landmarks.ravel().tolist()
    assert columns["box"].to_pylist() == [[175, -2.5, 310.25, 248], None]


@pytest.mark.parametrize("record", [FULL, BARE])
def test_a_record_survives_the_round_trip(record):
    again = Record.decode(record.encode())
    assert again == record
    assert again.encode() == record.encode()
    assert peek(record.encode()) == (record.key, record.identity, record.variant)


def test_landmarks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 2\)"):
        Record("k", "i", b"", 1, 1, landmarks=np.zeros((4, 2), np.float32)).encode()


def test_a_box_of_another_shape_is_refused():
    import tensorflow as tf

    with pytest.raises(ValueError, match=r"k: box must have shape \(4,\), not \(2, 2\)"):
        Record("k", "i", b"", 1, 1, box=np.zeros((2, 2), np.float32)).encode()
    example = tf.train.Example.FromString(FULL.encode())
    example.features.feature["box"].float_list.value.append(5)
    with pytest.raises(DatasetError, match="does not fit schema.pbtxt.*'box'"):
        Record.decode(example.SerializeToString())


def test_bytes_that_are_no_record_are_refused():
    import tensorflow as tf

    with pytest.raises(DatasetError, match="not a tf.train.Example"):
        Record.decode(b"\xff\xff\xff")
    lacking = tf.train.Example()
    lacking.features.feature["key"].bytes_list.value.append(b"k")
    with pytest.raises(DatasetError, match="identity"):
        Record.decode(lacking.SerializeToString())
    with pytest.raises(DatasetError, match="identity"):
        peek(lacking.SerializeToString())


@pytest.mark.parametrize("place", [3, 9, 14, -2], ids=["length", "its checksum", "payload", "footer"])
def test_a_flipped_bit_is_noticed(tmp_path, place):
    path = tmp_path / "faces.tfrecord"
    with tfrecord.Writer(path) as writer:
        writer.write(b"payload")
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"faces\.tfrecord.*byte"):
        list(tfrecord.read(path))


@pytest.mark.parametrize("length", range(1, 23))
def test_a_file_cut_anywhere_is_noticed(tmp_path, length):
    path = tmp_path / "faces.tfrecord"
    with tfrecord.Writer(path) as writer:
        writer.write(b"payload")
    assert len(path.read_bytes()) == 23
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DatasetError, match="ends inside a record"):
        list(tfrecord.read(path))
