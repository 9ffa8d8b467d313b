"""The training pipeline: from raw face archives to an evaluated embedding model.

    for each source:             probe -> download -> align --+
                                                              +-> augment -> pack -> train -> evaluate
    for each evaluation source:  probe -> download -> align ---------------------------------+

``create_pipeline`` builds it for a registry; ``faceflow compile`` writes ``training.yaml`` beside this file. The
defaults of the run form are the synthetic demo, so a run that is started untouched ends with a model and a score.
"""

# No `from __future__ import annotations`: kfp reads the signature of the pipeline function.
from collections.abc import Callable
from typing import Any

from kfp import dsl, kubernetes

from faceflow.components.align.component import align
from faceflow.components.augment.component import augment
from faceflow.components.common.objects import VARIABLES
from faceflow.components.download.component import download
from faceflow.components.evaluate.component import evaluate
from faceflow.components.pack.component import pack
from faceflow.components.probe.component import probe
from faceflow.components.train.component import train
from faceflow.pipelines.images import image_name

SCRATCH_MOUNT = "/scratch"
SCRATCH_IN_POD = "/tmp/faceflow-scratch"  # Argo mounts an emptyDir at /tmp
STORAGE_SECRET = "faceflow-storage"
_REACH_STORAGE = ("probe", "download", "align", "augment", "pack")

DEMO_SOURCES: list[dict[str, Any]] = [
    {
        "kind": "synthetic",
        "name": "synthetic",
        "layout": "trillion_pairs",
        "identities": 60,
        "images_per_identity": [4, 60],
        "seed": 1,
        "size_px": 250,
    }
]
DEMO_EVALUATE_SOURCES: list[dict[str, Any]] = [
    {
        "kind": "synthetic",
        "name": "synthetic-lfw",
        "layout": "lfw",
        "identities": 60,
        "images_per_identity": 6,
        "seed": 2,
    }
]
DEMO_POLICY = (
    "n > 50: sample(50) | n > 35: keep | n > 20: keep, opening | "
    "n > 5: keep, opening, gaussian_noise, salt_pepper | drop"
)
DEMO_TRAIN_OPTIONS: dict[str, Any] = {"softmax_fraction": 0.25, "margin": 0.2, "scale": 32.0}


def create_pipeline(
    registry: str | None = None,
    scratch_pvc: str | None = None,
    gpu: bool = False,
    storage_secret: str = STORAGE_SECRET,
) -> Any:
    """Build the pipeline.

    Args:
        registry: Where the images are pulled from, for instance ``registry.example.org/faceflow``; None for images that
            stand on the node under ``localhost/faceflow``.
        scratch_pvc: A PersistentVolumeClaim for partial downloads and training checkpoints, so that they survive a
            killed pod; None for the pod's own disk.
        gpu: Whether training and evaluation use the images with CUDA.
        storage_secret: The Kubernetes secret with the credentials for object stores, under the names that the
            environment variables have; pods run without where there is none.

    Returns:
        A kfp pipeline, to compile or to call.
    """

    def prepared(task: dsl.PipelineTask, stage: str, shown: str) -> dsl.PipelineTask:
        task.set_container_image(image_name(stage, registry, gpu))
        task.set_display_name(shown)
        if scratch_pvc and stage in ("download", "train"):
            kubernetes.mount_pvc(task, pvc_name=scratch_pvc, mount_path=SCRATCH_MOUNT)
        if stage in _REACH_STORAGE:
            kubernetes.use_secret_as_env(task, storage_secret, {each: each for each in VARIABLES}, optional=True)
        return task

    return _pipeline(prepared, SCRATCH_MOUNT if scratch_pvc else SCRATCH_IN_POD)


def _pipeline(prepared: Callable[[Any, str, str], Any], default_scratch: str) -> Any:
    @dsl.pipeline(
        name="faceflow-training",
        description="From raw face archives to an evaluated face-recognition model. "
        "The parameters are explained in docs/parameters.md.",
        display_name="faceflow training",
    )
    def training(
        sources: list = DEMO_SOURCES,
        evaluate_sources: list = DEMO_EVALUATE_SOURCES,
        seed: int = 1,
        scratch_dir: str = default_scratch,
        download_options: dict = {},
        align_landmarks: str = "auto",
        align_template: str = "arcface_112",
        align_several_faces: str = "choose",
        align_options: dict = {},
        augment_policy: str = DEMO_POLICY,
        augment_materialize: bool = True,
        augment_holdout_fraction: float = 0.0,
        augment_options: dict = {},
        pack_validation_fraction: float = 0.02,
        pack_options: dict = {},
        train_epochs: int = 12,
        train_batch_size: int = 64,
        train_learning_rate: float = 0.1,
        train_width: float = 0.25,
        train_input_size_px: int = 64,
        train_embedding_size: int = 128,
        train_options: dict = DEMO_TRAIN_OPTIONS,
        evaluate_options: dict = {},
        rerun_download: str = "",
        rerun_align: str = "",
        rerun_augment: str = "",
        rerun_pack: str = "",
        rerun_train: str = "",
        rerun_evaluate: str = "",
    ) -> None:
        """Train an embedding model on face archives, and evaluate it.

        Args:
            sources: What to train on: a list of sources, each an object with a ``kind`` and that kind's fields. See
                docs/sources.md.
            evaluate_sources: What to score on: a list of sources that bring pairs, such as LFW;
                ``[{"kind": "held_out"}]`` scores identities that ``augment_holdout_fraction`` keeps from training.
            seed: Feeds every random choice.
            scratch_dir: Where partial downloads and training checkpoints are kept, so that a retry resumes them.
            download_options: Further settings of the download stage, by name.
            align_landmarks: Where the landmarks come from: ``given`` with the source, found by ``mtcnn`` or ``dlib``,
                or ``auto``: given where present, else found by mtcnn.
            align_template: The alignment template: ``arcface_112``, ``arcface_96x112``, ``dlib_5point_224``,
                ``openface_96``, ``openface_96_outer`` or ``facenet_160``; see components/align/README.md.
            align_several_faces: Where several faces are found in an image: ``choose`` one of them, or ``drop`` the
                image.
            align_options: Further settings of the align stage, by name.
            augment_policy: What becomes of an identity with n images: rules in order, the first match wins.
            augment_materialize: Whether to write augmented copies to disk; otherwise training makes them as it reads,
                new ones in every epoch.
            augment_holdout_fraction: Share of the identities (at least 2) to keep from training and score on; 0 for
                none.
            augment_options: Further settings of the augment stage, by name.
            pack_validation_fraction: Share of the images to validate on while training.
            pack_options: Further settings of the pack stage, by name.
            train_epochs: Epochs in all, softmax warm start included.
            train_batch_size: Images a step, over all devices.
            train_learning_rate: Peak learning rate.
            train_width: Width factor of MobileFaceNet; 1 is the paper's.
            train_input_size_px: Side of the network's input, pixels.
            train_embedding_size: Length of an embedding.
            train_options: Further settings of the train stage, by name.
            evaluate_options: Further settings of the evaluate stage, by name.
            rerun_download: Change it to run download, and what follows, again.
            rerun_align: Change it to run align, and what follows, again.
            rerun_augment: Change it to run augment, and what follows, again.
            rerun_pack: Change it to run pack, and what follows, again.
            rerun_train: Change it to run train, and evaluate, again.
            rerun_evaluate: Change it to run evaluate again.
        """

        def aligned(source: Any, of: str) -> Any:
            # A probe is never cached: it is what notices that a source changed.
            probed = prepared(probe(source=source), "probe", f"Probe {of}").set_caching_options(False)
            raw = prepared(
                download(
                    source=source,
                    fingerprint=probed.output,
                    seed=seed,
                    scratch=scratch_dir,
                    options=download_options,
                    rerun=rerun_download,
                ),
                "download",
                f"Download {of}",
            )
            return prepared(
                align(
                    raw_faces=raw.outputs["raw_faces"],
                    landmarks=align_landmarks,
                    template=align_template,
                    several_faces=align_several_faces,
                    options=align_options,
                    rerun=rerun_align,
                ),
                "align",
                f"Align {of}",
            )

        with dsl.ParallelFor(sources, name="sources") as source:
            trained_on = aligned(source, "source")
        with dsl.ParallelFor(evaluate_sources, name="evaluate-sources") as evaluation_source:
            tested_on = aligned(evaluation_source, "evaluation set")
        augmented = prepared(
            augment(
                faces=dsl.Collected(trained_on.outputs["faces"]),
                policy=augment_policy,
                materialize=augment_materialize,
                holdout_fraction=augment_holdout_fraction,
                seed=seed,
                options=augment_options,
                rerun=rerun_augment,
            ),
            "augment",
            "Augment by identity",
        )
        packed = prepared(
            pack(
                faces=augmented.outputs["augmented_faces"],
                validation_fraction=pack_validation_fraction,
                seed=seed,
                options=pack_options,
                rerun=rerun_pack,
            ),
            "pack",
            "Pack shards",
        )
        trained = prepared(
            train(
                packed=packed.outputs["packed"],
                epochs=train_epochs,
                batch_size=train_batch_size,
                learning_rate=train_learning_rate,
                width=train_width,
                input_size_px=train_input_size_px,
                embedding_size=train_embedding_size,
                seed=seed,
                scratch=scratch_dir,
                options=train_options,
                rerun=rerun_train,
            ),
            "train",
            "Train embedding model",
        )
        prepared(
            evaluate(
                model=trained.outputs["model"],
                faces=dsl.Collected(tested_on.outputs["faces"]),
                held_out_faces=augmented.outputs["held_out_faces"],
                seed=seed,
                options=evaluate_options,
                rerun=rerun_evaluate,
            ),
            "evaluate",
            "Evaluate",
        )

    return training
