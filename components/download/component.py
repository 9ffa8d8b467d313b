"""The KFP component of the download stage."""

from kfp import dsl


@dsl.component(base_image="localhost/faceflow/download", install_kfp_package=False)
def download(
    source: dict,
    fingerprint: str,
    raw_faces: dsl.Output[dsl.Dataset],
    seed: int = 0,
    scratch: str = "",
    options: dict = {},
    rerun: str = "",
) -> None:
    """Read a source's archive or folder into shards of raw faces.

    Args:
        source: The source spec, a JSON object with a kind.
        fingerprint: The source's fingerprint, from probe: another one makes this another task.
        raw_faces: The images as they are, with the landmarks and attributes that the source has.
        seed: Seed of a synthetic source that has none of its own.
        scratch: Folder that outlives a killed attempt, for partial downloads; empty for a temporary one.
        options: Rarely used settings, by name; see the stage's README.
        rerun: Change it to run this stage again.
    """
    from pathlib import Path

    from faceflow.components.download import stage

    stage.run(
        stage.Settings.build(options, seed=seed),
        stage.Inputs(source, fingerprint),
        stage.Outputs(Path(raw_faces.path), Path(scratch) if scratch else None),
    )
