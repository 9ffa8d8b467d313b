"""The pack stage as a KFP component."""

from kfp import dsl


@dsl.component(base_image="localhost/faceflow/pack", install_kfp_package=False)
def pack(
    faces: dsl.Input[dsl.Dataset],
    packed: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    validation_fraction: float = 0.005,
    seed: int = 0,
    options: dict = {},
    rerun: str = "",
) -> None:
    """Label, split and shuffle faces into TFRecord shards for training, and count what is in them.

    Args:
        faces: Faces to train on, as augment wrote them.
        packed: Shards to learn from and to validate on, with the label map, the schema and statistics.
        report: Images per label, sample faces, and what tfx-bsl counted.
        validation_fraction: Fraction of the images to validate on; 0 for none.
        seed: Seed of split and shuffle.
        options: Rarely used settings by name; see the stage's README.
        rerun: Change it to run this stage again.
    """
    from pathlib import Path

    from faceflow.components.pack import stage

    stage.run(
        stage.Settings.build(options, validation_fraction=validation_fraction, seed=seed),
        stage.Inputs(Path(faces.path)),
        stage.Outputs(Path(packed.path), Path(report.path)),
    )
