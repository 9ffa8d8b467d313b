"""The per-identity policy and packing: augment, then pack, against a plain copy of the same records.

The subject is what a user runs: both stages one after the other, with sampling, ledgers, statistics, index and report.
Its time is the sum of both less that of a run over 160 records, which is the startup; ``verify_with_tfxio`` is off, as
it is by default for large sets. The reference copies the records with tf.data: ``TFRecordDataset`` with an 8 MiB
buffer, batches of 256, ``TFRecordWriter``. Both are alternated in one run, and a ratio is the median over pairs that
ran next to each other, input records per second over input records per second. Before each of the two there is a
pause: what the other one just freed is for some seconds quicker to write to than other memory, on virtual machines
several times, and the subject's startup alone would let that pass. Records have 5 KB; the identities' sizes make the
default policy keep 57 % of the images.

Bars:
- ``keep_everything``: the ratio with the policy ``keep``, one worker.
- ``default_policy``: the ratio with the default policy and variants left to the training, one worker.
- ``two_workers``: rate of two workers to that of one, policy ``keep``.
- ``large_to_small``: ``keep_everything`` on the large set to the same on a tenth of it.
- ``peak_gigabytes``, ``peak_gigabytes_two``: the most memory of the process tree (proportional set size, summed) on the
  large set with one and two workers.
- ``memory_growth``: by which factor one worker's peak is above that on a tenth of the records.
- ``materialize``: augment's time with ``materialize: true`` to that of a loop that reads TFRecords, does the same
  operations with OpenCV, its generator seeded for each image, and writes TFRecords, less the startup of each.

The full run takes 1,000,000 records, about 20 GB of disk and twenty minutes. ``--quick`` takes far fewer records
and one worker: the startup is then most of the time, the ratios are rough, and there is no bar on two workers or on
growth.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from faceflow.components.common.dataset import Dataset, ShardWriter, finish, publishing
from faceflow.components.common.record import Record
from measurement.bars import Bar, report
from measurement.machine import libraries, machine
from measurement.memory import watching

DEFAULT = (
    "n > 350: sample(350) | n > 200: keep | n > 90: keep, opening | "
    "n > 30: keep, opening, gaussian_noise, salt_pepper | drop"
)
RECORD_BYTES = 5_000
STARTUP_RECORDS = 160
SHARDS = 16
# Images of an identity, and the share of all images that such identities have: 57 % are kept.
BANDS = ((20, 0.36), (60, 0.10), (120, 0.20), (250, 0.20), (700, 0.14))
WATCH_SECONDS = 0.1
PAUSE_SECONDS = 8


def write_faces(path: Path, records: int, *, sizes: tuple[tuple[int, float], ...] = BANDS) -> None:
    """Write a dataset as align does: images of 112 x 112 pixels, padded to the record's size with random bytes."""
    rng = np.random.default_rng(records)
    pictures = []
    for _ in range(64):
        noise = rng.integers(0, 256, (8, 8, 3), np.uint8)
        smooth = cv2.resize(noise, (112, 112), interpolation=cv2.INTER_CUBIC)
        pictures.append(cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    owners = np.concatenate(
        [np.arange(max(1, round(records * share / size))).repeat(size) + (band << 32) for band, (size, share) in
         enumerate(sizes)]
    )[:records]  # fmt: skip
    owners = np.append(owners, np.full(records - len(owners), owners[-1]))
    rng.shuffle(owners)
    padding = rng.bytes(1 << 20)
    points = rng.uniform(0, 112, (5, 2)).astype(np.float32)
    with publishing(path) as directory:
        for shard, part in enumerate(np.array_split(np.arange(records), SHARDS)):
            with ShardWriter(directory, shard, stage="align") as out:
                for number in part.tolist():
                    owner = int(owners[number])
                    identity = f"bench/m.{owner >> 32}_{owner & 0xFFFFFFFF:07d}"
                    picture = pictures[number % len(pictures)]
                    begin = number * 7919 % (len(padding) - RECORD_BYTES)
                    picture += padding[begin : begin + RECORD_BYTES - 250 - len(picture)]
                    record = Record(f"{identity}/{number:07d}.jpg", identity, picture, 112, 112, points, 0.99)
                    out.write(record)
                    out.kept(record.key, identity)
        finish(directory, stage="align", settings={}, template="arcface_112", inputs={}, images_in=records)


class Reference:
    """A process with TensorFlow that copies or augments TFRecords when it is told to, and says how long it took."""

    def __init__(self) -> None:
        """Start it."""
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, "--reference"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def seconds(self, what: str, source: Path, target: Path) -> float:
        """Have it ``copy`` or ``augment`` a dataset's shards into a folder, which is removed again."""
        assert self._process.stdin is not None and self._process.stdout is not None
        target.mkdir()
        shards = [str(path) for path in Dataset(source).shards]
        self._process.stdin.write(json.dumps([what, shards, str(target)]) + "\n")
        self._process.stdin.flush()
        took = float(self._process.stdout.readline())
        shutil.rmtree(target)
        return took

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve_reference() -> None:
    """The reference's side of :class:`Reference`."""
    import tensorflow as tf

    for line in sys.stdin:
        what, shards, target = json.loads(line)
        begin = time.perf_counter()
        for number, shard in enumerate(shards):
            with tf.io.TFRecordWriter(f"{target}/{number}.tfrecord") as writer:
                if what == "copy":
                    for batch in tf.data.TFRecordDataset(shard, buffer_size=8 << 20).batch(256):
                        for payload in batch.numpy():
                            writer.write(payload)
                else:
                    _augment(tf, shard, writer)
        sys.stdout.write(f"{time.perf_counter() - begin}\n")
        sys.stdout.flush()


def _augment(tf: Any, shard: str, writer: Any) -> None:
    square = np.ones((5, 5), np.uint8)
    for payload in tf.data.TFRecordDataset(shard, buffer_size=8 << 20).as_numpy_iterator():
        example = tf.train.Example.FromString(payload)
        feature = example.features.feature
        key = feature["key"].bytes_list.value[0]
        picture = cv2.imdecode(np.frombuffer(feature["image/encoded"].bytes_list.value[0], np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        writer.write(payload)
        cv2.setRNGSeed(hash(key) & 0x7FFFFFFF)
        noise = np.empty(picture.shape, np.int16)
        cv2.randn(noise, 0, 10)  # type: ignore[call-overload]  # the stubs know no plain numbers
        draw = np.empty(picture.shape[:2], np.float32)
        cv2.randu(draw, 0, 1)  # type: ignore[call-overload]
        specks = picture.copy()
        specks[draw < 0.01] = 0
        specks[draw >= 0.99] = 255
        variants = {
            b"opening": cv2.morphologyEx(picture, cv2.MORPH_OPEN, square),
            b"gaussian_noise": cv2.add(picture, noise, dtype=cv2.CV_8U),
            b"salt_pepper": specks,
        }
        for name, changed in variants.items():
            feature["key"].bytes_list.value[0] = key + b"#" + name
            feature["variant"].bytes_list.value[0] = name
            encoded = cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            feature["image/encoded"].bytes_list.value[0] = encoded.tobytes()
            writer.write(example.SerializeToString())


def run_stages(source: Path, target: Path, settings: dict[str, Any]) -> None:
    """The subject, in a process of its own: both stages, or augment alone; prints how long they took."""
    begin = time.perf_counter()
    from faceflow.components.augment import stage as augment
    from faceflow.components.common.logs import setup_logging

    setup_logging()
    augment.run(
        augment.Settings(
            policy=settings["policy"], materialize=settings["materialize"], workers=settings["workers"]
        ),
        augment.Inputs((source,)),
        augment.Outputs(target / "augmented", target / "held_out", target / "augment.html"),
    )  # fmt: skip
    if not settings["materialize"]:
        from faceflow.components.pack import stage as pack

        pack.run(
            pack.Settings(workers=settings["workers"], verify_with_tfxio="never"),
            pack.Inputs(target / "augmented"),
            pack.Outputs(target / "packed", target / "pack.html"),
        )
    sys.stdout.write(f"\nseconds {time.perf_counter() - begin}\n")


def subject(
    source: Path, target: Path, policy: str, *, workers: int = 1, materialize: bool = False
) -> tuple[float, float]:
    """Run the subject.

    Returns:
        Seconds, and the peak memory of its process tree in gigabytes.
    """
    target.mkdir()
    settings = json.dumps({"policy": policy, "workers": workers, "materialize": materialize})
    command = [sys.executable, __file__, "--subject", str(source), str(target), settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with watching(process.pid, WATCH_SECONDS) as peak:
        out, told = process.communicate()
    if process.returncode:
        raise RuntimeError(told)
    shutil.rmtree(target)
    return float(out.split()[-1]), peak.bytes / 1e9


class Measurement:
    """The sets on disk, the startup of each way to run, and the pairs of subject and reference.

    Args:
        folder: For everything that is written.
        quick: Whether to measure the startup once only.
    """

    def __init__(self, folder: Path, quick: bool) -> None:
        """Start the reference."""
        self._folder = folder
        self._quick = quick
        self._pause = 0 if quick else PAUSE_SECONDS
        self._reference = Reference()
        self._startups: dict[str, float] = {}
        self.tiny = folder / "tiny"
        write_faces(self.tiny, STARTUP_RECORDS, sizes=((40, 1.0),))
        self._reference.seconds("copy", self.tiny, folder / "copy")

    def close(self) -> None:
        """End the reference."""
        self._reference.close()

    def net(self, source: Path, policy: str, **how: Any) -> tuple[float, float]:
        """Seconds of the subject without its startup, and peak gigabytes."""
        name = json.dumps(how, sort_keys=True)
        if name not in self._startups:
            keeping = "keep, opening, gaussian_noise, salt_pepper" if how.get("materialize") else "keep"
            tries = 1 if self._quick else 2
            runs = [subject(self.tiny, self._folder / "out", keeping, **how)[0] for _ in range(tries)]
            self._startups[name] = min(runs)
            print(f"  startup {self._startups[name]:6.1f} s  {name}", flush=True)
        took, peak = subject(source, self._folder / "out", policy, **how)
        return took - self._startups[name], peak

    def pairs(
        self, source: Path, policy: str, count: int, what: str = "copy", **how: Any
    ) -> tuple[float, list[float], float]:
        """Alternate the reference and the subject.

        Returns:
            The median of the reference's seconds to the subject's, the subject's seconds, and its peak in gigabytes.
        """
        ratios, seconds, peaks = [], [], []
        records = Dataset(source).manifest.images
        for _ in range(count):
            time.sleep(self._pause)
            reference = self._reference.seconds(what, source, self._folder / "copy")
            time.sleep(self._pause)
            took, peak = self.net(source, policy, **how)
            print(
                f"  {records:>9,} records: reference {records / reference / 1e3:6.1f} k/s, "
                f"subject {records / took / 1e3:6.1f} k/s, {peak:.2f} GB  {policy[:24]} {how or ''}",
                flush=True,
            )
            ratios.append(reference / took)
            seconds.append(took)
            peaks.append(peak)
        return statistics.median(ratios), seconds, max(peaks)


def main() -> int:
    """Measure, print, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer records: an answer within a minute")
    parser.add_argument("--records", type=int, help="records of the large set (default 1,000,000; quick 60,000)")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--subject", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reference:
        serve_reference()
        return 0
    if given.subject:
        run_stages(Path(given.subject[0]), Path(given.subject[1]), json.loads(given.subject[2]))
        return 0
    print(machine(libraries("apache-beam", "tfx-bsl", "tensorflow", "pyarrow")))
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        bars = measure(Path(name), given.records or (60_000 if given.quick else 1_000_000), given.quick)
    return report(bars)


def measure(folder: Path, records: int, quick: bool) -> list[Bar]:
    """Every bar's name, value, relation and threshold."""
    large, small, drawn = folder / "large", folder / "small", folder / "drawn"
    measurement = Measurement(folder, quick)
    try:
        # From 31 to 90 images an identity gets all three variants: four records out of one.
        write_faces(drawn, 3_000 if quick else 15_000, sizes=((60, 1.0),))
        materialize, _, _ = measurement.pairs(drawn, DEFAULT, 1 if quick else 2, "augment", materialize=True)
        if not quick:
            write_faces(small, records // 10)
            near, _, small_peak = measurement.pairs(small, "keep", 3)
        write_faces(large, records)
        far, alone, peak = measurement.pairs(large, "keep", 1 if quick else 3)
        policy, _, _ = measurement.pairs(large, DEFAULT, 1 if quick else 5)
        bars = [
            ("keep_everything", far, ">=", 0.45),
            ("default_policy", policy, ">=", 0.7),
            ("peak_gigabytes", peak, "<=", 0.7),
            ("materialize", 1 / materialize, "<=", 1.4),
        ]
        if not quick:
            both, peak_two = measurement.net(large, "keep", workers=2)
            bars += [
                ("two_workers", statistics.median(alone) / both, ">=", 1.2),
                ("peak_gigabytes_two", peak_two, "<=", 1.5),
                ("large_to_small", far / near, ">=", 0.67),
                ("memory_growth", peak / small_peak, "<=", 1.2),
            ]
    finally:
        measurement.close()
    return bars


if __name__ == "__main__":
    sys.exit(main())
