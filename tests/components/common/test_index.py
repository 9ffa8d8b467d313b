import numpy as np
import pytest

from faceflow.components.common import index, tfrecord
from faceflow.components.common.dataset import Dataset, ShardWriter, finish, publishing
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.index import INDEX_NAME, INDEX_SCHEMA, Index
from faceflow.components.common.record import Record


@pytest.fixture(params=["none", "gzip"])
def dataset(tmp_path, request):
    """Four parts, one of them empty, with three labels in turn and one copy."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with publishing(tmp_path / "set") as directory:
        number = 0
        for part, records in enumerate((3, 0, 5, 4)):
            rows = []
            with ShardWriter(directory, part, stage="pack", compression=request.param) as out:
                for _ in range(records):
                    variant = "opening" if number == 7 else ""
                    key = "s/a/6.jpg#opening" if variant else f"s/a/{number}.jpg"
                    record = Record(key, "s/a", bytes(100 + number), 4, 5, variant=variant, label=number % 3)
                    offset = out._records.bytes_written
                    out.write(record)
                    out.kept(key, "s/a")
                    rows.append((part, offset, out._records.bytes_written - offset, record.label, key))
                    number += 1
            columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 5
            pq.write_table(pa.table(columns, schema=INDEX_SCHEMA), directory / f"part-{part:05d}.index.parquet")
        index.merge(sorted(directory.glob("*.index.parquet")), directory / INDEX_NAME)
        finish(
            directory, stage="pack", settings={}, template=None, inputs={}, images_in=12,
            attachments=[directory / INDEX_NAME],
        )  # fmt: skip
    return Dataset(tmp_path / "set")


def test_every_record_is_where_the_index_says(dataset):
    found = Index(dataset)
    payloads = list(dataset.payloads())
    assert len(found) == 12
    assert list(found.payloads(range(12))) == payloads
    assert list(found.payloads([11, 0, 5, 4])) == [payloads[row] for row in (11, 0, 5, 4)]
    assert found.shard.tolist() == [0] * 3 + [1] * 5 + [2] * 4
    keys = [record.key for record in dataset.records()]
    assert [found.record(found.row_of(key)).key for key in keys] == keys
    assert found.label.tolist() == [record.label for record in dataset.records()]
    with pytest.raises(DatasetError, match="has no record 's/none'"):
        found.row_of("s/none")


def test_cleaning_leaves_rows_out_and_writes_no_shard_again(dataset):
    before = {path.name: path.read_bytes() for path in dataset.path.iterdir()}
    cleaned = Index(dataset).without(["s/a/0.jpg", "s/a/6.jpg"])
    left = [record.key for record in map(Record.decode, cleaned.payloads(range(len(cleaned))))]
    # The copy goes with its source image.
    assert left == [record.key for record in dataset.records() if record.key.split("#")[0] not in
                    ("s/a/0.jpg", "s/a/6.jpg")]  # fmt: skip
    assert {path.name: path.read_bytes() for path in dataset.path.iterdir()} == before
    again = cleaned.without(["s/a/11.jpg"])
    assert len(again) == len(cleaned) - 1
    assert again.record(again.row_of("s/a/10.jpg")).key == "s/a/10.jpg"
    with pytest.raises(DatasetError, match=r"no record 's/a/0\.jpg'"):
        cleaned.without(["s/a/0.jpg"])


def test_the_rows_of_a_label_are_found_together(dataset):
    found = Index(dataset)
    labels = [record.label for record in dataset.records()]
    groups = found.groups()
    assert sorted(groups) == [0, 1, 2]
    for label, rows in groups.items():
        assert rows.tolist() == found.rows_of(label).tolist() == [n for n, each in enumerate(labels) if each == label]
    some = found.take(np.array([9, 3, 1]))
    assert [some.record(row).key for row in range(3)] == ["s/a/9.jpg", "s/a/3.jpg", "s/a/1.jpg"]


def test_an_index_that_does_not_go_with_the_shards_is_refused(dataset):
    found = Index(dataset)
    found.offset = found.offset + 0
    found.size = found.size + 1
    with pytest.raises(DatasetError, match="another record at byte 0"):
        found.record(0)


def test_a_dataset_without_an_index_is_told(tmp_path):
    with publishing(tmp_path / "set") as directory:
        finish(directory, stage="align", settings={}, template=None, inputs={}, images_in=0)
    with pytest.raises(DatasetError, match=r"has no index\.parquet: give .*/train of a packed dataset"):
        Index(Dataset(tmp_path / "set"))


def test_gzip_shards_read_like_others_and_have_no_time_in_them(tmp_path):
    for name in ("a.tfrecord", "a.tfrecord.gz", "b.tfrecord.gz"):
        with tfrecord.Writer(tmp_path / name) as writer:
            for size in (0, 10, 3_000_000, 5):
                writer.write(bytes(size))
            shown = writer
        assert shown.records == 4
        assert shown.bytes_written == (tmp_path / "a.tfrecord").stat().st_size
        assert shown.file_bytes == (tmp_path / name).stat().st_size
        assert [len(payload) for payload in tfrecord.read(tmp_path / name)] == [0, 10, 3_000_000, 5]
    assert (tmp_path / "a.tfrecord.gz").read_bytes() == (tmp_path / "b.tfrecord.gz").read_bytes()
    data = (tmp_path / "a.tfrecord.gz").read_bytes()
    (tmp_path / "cut.tfrecord.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"cut\.tfrecord\.gz: damaged TFRecord"):
        list(tfrecord.read(tmp_path / "cut.tfrecord.gz"))
