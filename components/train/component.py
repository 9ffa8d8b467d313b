"""The train stage as a KFP component."""

from kfp import dsl


@dsl.component(base_image="localhost/faceflow/train", install_kfp_package=False)
def train(
    packed: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    width: float = 1.0,
    input_size_px: int = 112,
    embedding_size: int = 128,
    seed: int = 0,
    scratch: str = "",
    options: dict = {},
    rerun: str = "",
) -> None:
    """Train an embedding network: MobileFaceNet under a softmax head, then under ArcFace.

    Args:
        packed: The output of pack.
        model: The network and its contract, model.json.
        metrics: Main numbers; the file holds the results of each epoch.
        report: Curves and the images as the network sees them.
        epochs: Epochs in all, the softmax ones among them.
        batch_size: Images of a batch, over all devices.
        learning_rate: Learning rate after the warm-up.
        width: Factor on MobileFaceNet's channels.
        input_size_px: Rows of the network's input.
        embedding_size: Values of an embedding.
        seed: Seeds the weights, the order of the images and their mirroring.
        scratch: Directory that outlives a killed pod, for checkpoints; empty keeps none.
        options: The rarely used settings, by name; see the README of the stage.
        rerun: Change it to run this stage again.
    """
    from pathlib import Path

    from faceflow.components.common.reports import publish_metrics
    from faceflow.components.train import stage

    numbers = stage.run(
        stage.Settings.build(
            options,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            width=width,
            input_size_px=input_size_px,
            embedding_size=embedding_size,
            seed=seed,
        ),
        stage.Inputs(Path(packed.path)),
        stage.Outputs(Path(model.path), Path(metrics.path), Path(report.path), Path(scratch) if scratch else None),
    )
    publish_metrics(metrics, numbers)
