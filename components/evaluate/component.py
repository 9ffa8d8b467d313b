"""The evaluate stage as a KFP component."""

from kfp import dsl


@dsl.component(base_image="localhost/faceflow/evaluate", install_kfp_package=False)
def evaluate(
    model: dsl.Input[dsl.Model],
    faces: dsl.Input[list[dsl.Dataset]],
    held_out_faces: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    seed: int = 0,
    options: dict = {},
    rerun: str = "",
) -> None:
    """Score a model's embeddings: verification in ten folds, beside what raw pixels score on the same folds.

    Args:
        model: The output of train.
        faces: Aligned evaluation sets, each with its pairs.csv or scored on pairs made from it; empty ones are passed
            over.
        held_out_faces: Identities that augment held out; empty if there are none.
        scores: Main numbers; the file holds every result.
        roc: The first set's curve; the file holds every set's.
        report: Scores, ROC, histograms and the hardest pairs.
        seed: Seeds the pairs of sets that come without any.
        options: The rarely used settings, by name; see the stage's README.
        rerun: Change it to run this stage again.
    """
    from pathlib import Path

    from faceflow.components.evaluate import stage

    summary = stage.run(
        stage.Settings.build(options, seed=seed),
        stage.Inputs(Path(model.path), tuple(Path(each.path) for each in faces), Path(held_out_faces.path)),
        stage.Outputs(Path(scores.path), Path(roc.path), Path(report.path)),
    )
    summary.publish(scores, roc)
