"""The guard that faces which meet are aligned alike: to one template, drawn with one interpolation.

A network that learnt from one alignment and is tested on another loses most of its accuracy, and nothing else says why.
"""

from __future__ import annotations

from collections.abc import Sequence

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.manifest import Manifest


def alignment_of(manifest: Manifest) -> str:
    """Template and interpolation of a dataset, to be read."""
    if manifest.template is None:
        return "not aligned"
    return f"'{manifest.template}'" + (f", {manifest.interpolation}" if manifest.interpolation else "")


def one_template(datasets: Sequence[Dataset]) -> str:
    """The one template of datasets that are worked on together.

    Args:
        datasets: One or more.

    Returns:
        Its name.

    Raises:
        DatasetError: One is not aligned, or two are aligned differently.
    """
    for dataset in datasets:
        if dataset.manifest.template is None:
            raise DatasetError(
                f"{dataset.path} holds faces that are not aligned (stage '{dataset.manifest.stage}'): run align on it."
            )
    found = {(each.manifest.template, each.manifest.interpolation): each for each in reversed(datasets)}
    if len(found) > 1:
        told = "; ".join(
            f"{alignment_of(dataset.manifest)} ({dataset.path})" for _, dataset in sorted(found.items(), key=str)
        )
        raise DatasetError(
            f"faces that are aligned to different templates do not go together: {told}. "
            "Align every source with the same 'template', by the same version of faceflow."
        )
    return str(datasets[0].manifest.template)
