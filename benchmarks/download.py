"""Ingest of an archive of images: as fast as tar unpacks it, and in memory that does not grow with it.

Bars:
- ``rate_against_tar``: the rate of the download stage on a local tar.gz of JPEGs that compression gains nothing on, to
  that of ``tar xzOf FILE >/dev/null``, alternated in one run, both from the page cache; the median of the ratios. The
  stage's time is that of its run in a process that is up: decompression, the archive's checksum, the join with a
  landmark file, records, the shards' checksums, the ledger. One archive of scans as encoders write them, which gzip
  recodes, and one of random bytes in their place, which it stores; the worse of the two counts.
- ``peak_megabytes``: the most memory of the stage's process tree (proportional set size, summed), imports included,
  on the larger of two archives.
- ``growth_megabytes``: by how much that is more than on the smaller one, of a quarter of its size.
- ``join_megabytes``: the most memory while seven million landmark rows and as many keys are held, as the largest
  published set needs; on top of the interpreter and its imports.

``--quick`` takes smaller archives and a million rows, scaled up to seven.
"""

from __future__ import annotations

import argparse
import gzip
import io
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from faceflow.components.download import stage
from faceflow.components.download.tables import NameIndex, NameSet
from measurement.bars import report
from measurement.machine import machine
from measurement.memory import watching

PICTURES = 64
IDENTITY_IMAGES = 40
JOIN_ROWS = 7_000_000
SOI_TO_SCAN = 640  # bytes that an encoder's headers take, at most
WATCH_SECONDS = 0.02


def program(name: str) -> str:
    """A program and its version, as it tells it."""
    return subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def pictures() -> list[bytes]:
    """Different noisy pictures; so many that none comes again within what gzip remembers."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(1)
    made = []
    for _ in range(PICTURES):
        coarse = rng.integers(0, 256, (30, 30, 3)).astype(np.uint8)
        smooth = cv2.resize(coarse, (280, 280), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        made.append(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return made


def write_archive(folder: Path, megabytes: int, *, random_scans: bool) -> dict[str, str]:
    """Write a Trillion Pairs set; returns its source."""
    rng = np.random.default_rng(2)
    jpegs = pictures()
    folder.mkdir()
    archive, landmarks = folder / "set.tar.gz", folder / "set_lmk"
    points = " ".join(f"{value:.3f}" for value in rng.uniform(80, 200, 10))
    written = index = 0
    with (
        gzip.open(archive, "wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|") as members,
        open(landmarks, "w") as rows,
    ):
        while written < megabytes * 1_000_000:
            jpeg = jpegs[index % PICTURES]
            if random_scans:
                jpeg = jpeg[:SOI_TO_SCAN] + rng.bytes(len(jpeg) - SOI_TO_SCAN - 2) + jpeg[-2:]
            name = f"msra/m.{index // IDENTITY_IMAGES:06d}/{index % IDENTITY_IMAGES}-FaceId-0_align.jpg"
            info = tarfile.TarInfo(name)
            info.size = len(jpeg)
            members.addfile(info, io.BytesIO(jpeg))
            rows.write(f"{name} {index // IDENTITY_IMAGES} {points}\n")
            written += len(jpeg)
            index += 1
    return {"kind": "trillion_pairs", "archive": str(archive), "landmarks": str(landmarks)}


def ingest(source: dict[str, str], out: Path) -> float:
    """Seconds that the stage takes; what it wrote is removed again."""
    begin = time.perf_counter()
    stage.run(stage.Settings(), stage.Inputs(source), stage.Outputs(out))
    seconds = time.perf_counter() - begin
    shutil.rmtree(out)
    return seconds


def unpack(source: dict[str, str]) -> float:
    """Seconds that tar takes to unpack to nowhere."""
    begin = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:
        subprocess.run(["tar", "xzOf", source["archive"]], stdout=nowhere, check=True)
    return time.perf_counter() - begin


def rate_against_tar(source: dict[str, str], folder: Path, repeats: int) -> float:
    """The median of the ratios of both rates, alternated."""
    megabytes = Path(source["archive"]).stat().st_size / 1e6
    ingest(source, folder / "warm")
    ratios = []
    for _ in range(repeats):
        theirs, ours = unpack(source), ingest(source, folder / "out")
        ratios.append(theirs / ours)
        print(f"  {megabytes:.0f} MB: tar {megabytes / theirs:.0f} MB/s, download {megabytes / ours:.0f} MB/s")
    return statistics.median(ratios)


def peak_megabytes(command: list[str]) -> float:
    """The most memory that a command and all that it starts take."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with watching(process.pid, WATCH_SECONDS) as peak:
        _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command} failed: {said}")
    return peak.bytes / 1e6


def ingest_peak(source: dict[str, str], folder: Path) -> float:
    """The most memory of the stage in a process of its own."""
    fields = [part for label in ("archive", "landmarks") for part in (label, source[label])]
    code = (
        "import sys; from pathlib import Path; from faceflow.components.download import stage; a = sys.argv[1:];"
        "stage.run(stage.Settings(), stage.Inputs({'kind': 'trillion_pairs', a[0]: a[1], a[2]: a[3]}),"
        "stage.Outputs(Path(a[4])))"
    )
    out = folder / "out"
    peak = peak_megabytes([sys.executable, "-c", code, *fields, str(out)])
    shutil.rmtree(out)
    return peak


def hold_join(rows: int) -> None:
    """Hold what a set of so many images needs: the index of its landmarks, and its keys."""

    def name(row: int) -> str:
        return f"m.{row // IDENTITY_IMAGES:07d}/{row % IDENTITY_IMAGES}-FaceId-0_align.jpg"

    index, keys = NameIndex(map(name, range(rows))), NameSet()
    for row in range(rows):
        keys.add(f"msra/{name(row)}")
    index.find(name(0))


def main() -> int:
    """Measure, print, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller archives: an answer within a minute")
    parser.add_argument("--hold-join", type=int, metavar="ROWS", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.hold_join is not None:
        hold_join(asked.hold_join)
        return 0
    print(machine(program("tar"), program("gzip")))
    logging.getLogger("faceflow").setLevel(logging.ERROR)
    megabytes, repeats, rows = (160, 3, JOIN_ROWS // 7) if asked.quick else (1200, 5, JOIN_ROWS)
    with tempfile.TemporaryDirectory(prefix="faceflow-benchmark-") as temporary:
        folder = Path(temporary)
        scans = write_archive(folder / "scans", megabytes, random_scans=False)
        stored = write_archive(folder / "random", megabytes, random_scans=True)
        fewer = write_archive(folder / "fewer", megabytes // 4, random_scans=False)
        ratios = []
        for name, source in (("scans, recoded by gzip", scans), ("random bytes, stored by gzip", stored)):
            print(f"{name}:")
            ratios.append(rate_against_tar(source, folder, repeats))
        large = ingest_peak(scans, folder)
        small = ingest_peak(fewer, folder)
    held, idle = (peak_megabytes([sys.executable, __file__, "--hold-join", str(count)]) for count in (rows, 0))
    join = (held - idle) * JOIN_ROWS / rows
    print(f"peak memory: {small:.0f} MB on {megabytes // 4} MB, {large:.0f} MB on {megabytes} MB")
    print(f"join of {rows:,} rows: {held:.0f} MB, {idle:.0f} MB without")
    bars = (
        ("rate_against_tar", min(ratios), ">=", 0.8),
        ("peak_megabytes", large, "<=", 500.0),
        ("growth_megabytes", large - small, "<=", 25.0),
        ("join_megabytes", join, "<=", 350.0),
    )
    return report(bars)


if __name__ == "__main__":
    sys.exit(main())
