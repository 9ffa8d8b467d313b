"""The generated pictures and the table of operations."""

import numpy as np

from faceflow.components.common.operations import OPERATIONS, Variant
from faceflow.pipelines import docs, pictures


def test_every_operation_has_a_row_and_a_picture():
    table = docs.operations_table("images/operations")
    for name, found in OPERATIONS.items():
        assert f"| ![{name}](images/operations/{name}.jpg) | `{found.usage}` |" in table
        assert (docs.ROOT / "docs" / "images" / "operations" / f"{name}.jpg").stat().st_size < 8_000
    assert "`size` 2 to 31, whole" in table


def test_a_picture_of_another_processor_passes_and_a_changed_operation_does_not():
    face = pictures.aligned_face()
    blurred = pictures.operation_picture("blur")
    kept = pictures.encoded(blurred)
    rounded = blurred.copy()
    rounded[::9, ::7] ^= 1
    assert pictures.is_of(kept, blurred)
    assert pictures.is_of(kept, rounded)
    assert not pictures.is_of(kept, Variant.parse("blur(sigma=2)").make(face, 0, ""))
    assert not pictures.is_of(kept, face)
    assert not pictures.is_of(kept, blurred[:-1])
    assert not pictures.is_of(b"no picture", blurred)
    noise = pictures.encoded(pictures.operation_picture("gaussian_noise"))
    assert not pictures.is_of(noise, Variant.parse("gaussian_noise").make(face, 1, "documentation"))


def test_stale_pictures_are_found_and_put_right(tmp_path):
    made = docs._stale_pictures(tmp_path, check=False)
    assert len(made) == 1 + len(OPERATIONS)
    assert docs._stale_pictures(tmp_path, check=True) == []
    (tmp_path / "blur.jpg").write_bytes((tmp_path / "grey.jpg").read_bytes())
    (tmp_path / "sepia.jpg").write_bytes(b"of no operation")
    (tmp_path / "flip.jpg").unlink()
    stale = {path.name for path in docs._stale_pictures(tmp_path, check=True)}
    assert stale == {"blur.jpg", "sepia.jpg", "flip.jpg"}
    docs._stale_pictures(tmp_path, check=False)
    assert docs._stale_pictures(tmp_path, check=True) == []
    assert not (tmp_path / "sepia.jpg").exists()


def test_the_face_is_the_same_every_time():
    first = pictures.aligned_face()
    pictures.aligned_face.cache_clear()
    assert np.array_equal(first, pictures.aligned_face())
    assert first.shape == (112, 112, 3)
