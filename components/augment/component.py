"""The augment stage as a KFP component."""

from kfp import dsl


@dsl.component(base_image="localhost/faceflow/augment", install_kfp_package=False)
def augment(
    faces: dsl.Input[list[dsl.Dataset]],
    augmented_faces: dsl.Output[dsl.Dataset],
    held_out_faces: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    policy: str = (
        "n > 350: sample(350) | n > 200: keep | n > 90: keep, opening | "
        "n > 30: keep, opening, gaussian_noise, salt_pepper | drop"
    ),
    materialize: bool = True,
    holdout_fraction: float = 0.0,
    seed: int = 0,
    options: dict = {},
    rerun: str = "",
) -> None:
    """Apply the per-identity policy to aligned faces, and hold out identities for evaluation.

    Args:
        faces: Aligned faces, one dataset a source.
        augmented_faces: Faces to train on: sampled, kept or augmented, by the number of an identity's images.
        held_out_faces: Identities held out for evaluation, untouched; empty where holdout_fraction is 0.
        report: Images per identity before and after, counts band by band, and each operation's effect.
        policy: Rules by n, the images of an identity; the first match wins.
        materialize: Whether to write the changed copies; otherwise training makes them as it reads.
        holdout_fraction: Fraction of the identities to hold out, at least 2 of them; 0 for none.
        seed: Seed of every random choice.
        options: Rarely used settings by name; see the stage's README.
        rerun: Change it to run this stage again.
    """
    from pathlib import Path

    from faceflow.components.augment import stage

    stage.run(
        stage.Settings.build(
            options, policy=policy, materialize=materialize, holdout_fraction=holdout_fraction, seed=seed
        ),
        stage.Inputs(tuple(Path(each.path) for each in faces)),
        stage.Outputs(Path(augmented_faces.path), Path(held_out_faces.path), Path(report.path)),
    )
