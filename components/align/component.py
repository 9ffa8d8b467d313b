"""The KFP component of the align stage."""

from kfp import dsl


@dsl.component(base_image="localhost/faceflow/align", install_kfp_package=False)
def align(
    raw_faces: dsl.Input[dsl.Dataset],
    faces: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    landmarks: str = "auto",
    template: str = "arcface_112",
    several_faces: str = "choose",
    options: dict = {},
    rerun: str = "",
) -> None:
    """Find the face in every raw image and carry it onto one template.

    Args:
        raw_faces: The images of one source.
        faces: The aligned faces.
        report: Faces before and after, the drop reasons with examples, the mean face.
        landmarks: Where landmarks come from: given (the source), mtcnn or dlib (detection), auto (given where there are
            any, else mtcnn).
        template: The alignment template: arcface_112, arcface_96x112, dlib_5point_224, openface_96, openface_96_outer
            or facenet_160.
        several_faces: Where several faces are found: choose one, or drop the image.
        options: Rarely used settings, by name; see the stage's README.
        rerun: Change it to run this stage again.
    """
    from pathlib import Path

    from faceflow.components.align import stage

    stage.run(
        stage.Settings.build(options, landmarks=landmarks, template=template, several_faces=several_faces),
        stage.Inputs(Path(raw_faces.path)),
        stage.Outputs(Path(faces.path), Path(report.path)),
    )
