"""The input pipeline: TFRecord shards -> batches of pixels and labels, in an order that the seed alone decides.

Every epoch's order, mirroring and augmentation hang on (seed, epoch, position), not on the state of a generator, so a
training that was interrupted after epoch k reads the very same batches from epoch k + 1 on as one that was not.

A record with v online variants is 1 + v images of an epoch: itself, and each variant with noise of its own. They are
told apart before the shuffle, as places in it that share one record, so they are not neighbours after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.model import resize
from faceflow.components.common.operations import Variant
from faceflow.components.common.record import ONLINE_VARIANTS
from faceflow.components.train import operations

if TYPE_CHECKING:
    from faceflow.components.common.dataset import Dataset

_READ_AHEAD = 8 << 20
_EXPANDED_TOGETHER = 256


class FaceReader:
    """Turns serialised records into pixels and labels.

    Args:
        stored: Rows and columns of the packed images.
        wanted: Rows and columns of the network's input.
        classes: Number of identities.
    """

    def __init__(self, stored: tuple[int, int], wanted: tuple[int, int], classes: int) -> None:
        """Set what to read."""
        self.stored = stored
        self.wanted = wanted
        self.classes = classes

    def read(
        self, payload: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor] | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Decode one record.

        Args:
            payload: () string, the serialised record.
            change: What to do to the pixels before they get the network's size, as augment does it.

        Returns:
            Pixels, (rows, columns, 3) uint8 RGB, and the label, () int32.

        Raises:
            tf.errors.InvalidArgumentError: When run: the record has no label or one that is no class, or its image is
                damaged or of another size than ``stored``.
        """
        fields = tf.io.parse_single_example(
            payload,
            {
                "key": tf.io.FixedLenFeature((), tf.string),
                "image/encoded": tf.io.FixedLenFeature((), tf.string),
                "label": tf.io.FixedLenFeature((), tf.int64, default_value=-1),
            },
        )
        label, key = fields["label"], fields["key"]
        # INTEGER_ACCURATE is what OpenCV and Pillow decode with, and so what evaluation sees
        pixels = tf.io.decode_jpeg(fields["image/encoded"], channels=3, dct_method="INTEGER_ACCURATE")
        checks = [
            tf.debugging.Assert(
                tf.logical_and(label >= 0, label < self.classes),
                [f"label outside 0..{self.classes - 1} in record", key, label],
            ),
            tf.debugging.Assert(
                tf.reduce_all(tf.shape(pixels)[:2] == self.stored),
                [f"image is not {self.stored[1]}x{self.stored[0]} pixels in record", key, tf.shape(pixels)],
            ),
        ]
        with tf.control_dependencies(checks):
            label = tf.cast(label, tf.int32)
        pixels.set_shape((*self.stored, 3))
        if change is not None:
            pixels = change(pixels)
        if self.stored != self.wanted:
            pixels = resize(pixels, *self.wanted)
        return pixels, label


def training_batches(
    dataset: Dataset,
    reader: FaceReader,
    *,
    batch_size: int,
    epochs: range,
    seed: int,
    variants: Sequence[Variant] = (),
    flip: bool = True,
    shuffle_block: int = 20_000,
) -> tf.data.Dataset:
    """Batches of the given epochs, one after the other, each of ``images // batch_size`` full batches.

    The shards' order, the records' order within a block and the mirroring differ from epoch to epoch; what does not
    fill a batch is left out of an epoch, another part every time.

    Args:
        dataset: The packed records.
        reader: Decodes them.
        batch_size: Images of a batch.
        epochs: Which epochs, counted from 0.
        seed: Of every random choice.
        variants: The online variants that the records carry.
        flip: Whether half the images are mirrored.
        shuffle_block: Serialised records that are shuffled together, once for each image that they stand for; two
            blocks are in memory.

    Returns:
        Batches of pixels (batch_size, rows, columns, 3) uint8 and labels (batch_size,) int32.
    """
    images = dataset.manifest.images
    full = images // batch_size * batch_size
    # 62 bits fit a signed integer, with room for the epoch's number
    base, online_base = (stable_hash(seed, what) >> 2 for what in ("train order", "online variants"))
    shards = [str(path) for path in dataset.shards]

    def records_of(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.stack([tf.constant(base, tf.int64), epoch])
        files = tf.random.experimental.stateless_shuffle(tf.constant(shards), epoch_seed)
        records = _records(tf.data.Dataset.from_tensor_slices(files))
        blocks = _images_of(records, variants).batch(shuffle_block).enumerate()

        def shuffled(block: tf.Tensor, image: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            # Dataset.shuffle would mix TensorFlow's global seed into its own
            places = tf.range(tf.shape(image[0])[0])
            order = tf.random.experimental.stateless_shuffle(places, tf.stack([base + 1 + block, epoch]))
            return tf.gather(image[0], order), tf.gather(image[1], order)

        return (
            blocks.map(shuffled)
            .prefetch(1)
            .unbatch()
            .take(full)
            .enumerate()
            .map(lambda position, image: (*image, epoch, position))
        )

    def read(
        payload: tf.Tensor, choice: tf.Tensor, epoch: tf.Tensor, position: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def change(pixels: tf.Tensor) -> tf.Tensor:
            return operations.choose(variants, choice, pixels, tf.stack([online_base + epoch, position]))

        pixels, label = reader.read(payload, change if variants else None)
        if flip:
            pixels = tf.image.stateless_random_flip_left_right(pixels, tf.stack([base + epoch, position]))
        return pixels, label

    stream = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(records_of)
    stream = stream.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _finished(stream.batch(batch_size, drop_remainder=True))


def validation_batches(dataset: Dataset, reader: FaceReader, batch_size: int) -> tf.data.Dataset:
    """Every record once, in order; the last batch may be smaller."""
    batches = math.ceil(dataset.manifest.images / batch_size)
    stream = _records(tf.data.Dataset.from_tensor_slices([str(path) for path in dataset.shards]))
    stream = stream.map(reader.read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # Keras takes the end of a stream of unknown length for an accident, and warns
    return _finished(stream.batch(batch_size)).apply(tf.data.experimental.assert_cardinality(batches))


def sample(dataset: Dataset, reader: FaceReader, count: int, variants: Sequence[Variant] = ()) -> tf.Tensor:
    """The first images of a dataset, online variants among them, as the network sees them.

    Returns:
        (count, rows, columns, 3) uint8.
    """

    def read(position: tf.Tensor, image: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        payload, choice = image

        def change(pixels: tf.Tensor) -> tf.Tensor:
            return operations.choose(variants, choice, pixels, tf.stack([tf.constant(0, tf.int64), position]))

        return reader.read(payload, change if variants else None)[0]

    records = _records(tf.data.Dataset.from_tensor_slices([str(path) for path in dataset.shards]))
    return next(iter(_images_of(records, variants).take(count).enumerate().map(read).batch(count)))


def _images_of(records: tf.data.Dataset, variants: Sequence[Variant]) -> tf.data.Dataset:
    """Each record once for every image that it stands for.

    Returns:
        Payloads () string, and which image () int32: 0 for the record's own, 1 for the first of ``variants``.
    """
    if not variants:
        return records.map(lambda payload: (payload, 0))
    known = tf.constant([variant.name for variant in variants])

    def images(payloads: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        feature = tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64)
        named = tf.io.parse_example(payloads, {ONLINE_VARIANTS: feature})[ONLINE_VARIANTS]
        matches = named.flat_values[:, None] == known[None]
        check = tf.debugging.Assert(
            tf.reduce_all(tf.reduce_any(matches, 1)),
            ["online variant outside the manifest's", known, named.flat_values],
        )
        with tf.control_dependencies([check]):
            chosen = named.with_flat_values(tf.argmax(matches, 1, tf.int32) + 1)
        own = tf.zeros((tf.shape(payloads)[0], 1), tf.int32)
        choices = tf.concat([own, chosen], 1)
        return tf.repeat(payloads, choices.row_lengths()), choices.flat_values

    return records.batch(_EXPANDED_TOGETHER).map(images).unbatch()


def _records(files: tf.data.Dataset) -> tf.data.Dataset:
    def records(file: tf.Tensor) -> tf.data.Dataset:
        compression = tf.where(tf.strings.regex_full_match(file, r".*\.gz"), "GZIP", "")
        return tf.data.TFRecordDataset(file, compression_type=compression, buffer_size=_READ_AHEAD)

    return files.interleave(
        records,
        cycle_length=16,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _finished(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    # one host feeds all its GPUs from one stream: files are not to be divided among them
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)
