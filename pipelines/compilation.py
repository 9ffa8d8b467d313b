"""Compiles the pipelines: Python to the YAML that a KFP backend and kfp.local read."""

from __future__ import annotations

import ast
import difflib
import importlib
import pprint
import re
import sys
import warnings
from pathlib import Path

from faceflow.components.common.errors import SettingsError

PIPELINES = {"training": "faceflow.pipelines.training"}
_DEFAULT = re.compile(r"^(?P<before>#    \w+: (?:list|dict) \[Default: )(?P<value>.*)(?P<after>\])$", re.MULTILINE)


def golden(name: str) -> Path:
    """Where the compiled form of a pipeline is kept, beside its source."""
    return Path(__file__).parent / f"{name}.yaml"


def compile_pipeline(
    name: str,
    path: Path,
    *,
    registry: str | None = None,
    scratch_pvc: str | None = None,
    gpu: bool = False,
    storage_secret: str | None = None,
) -> None:
    """Compile a pipeline with the names that its images have now.

    Args:
        name: The pipeline's name.
        path: The YAML file to write.
        registry: Where the images are; None for images of this machine.
        scratch_pvc: The PersistentVolumeClaim to mount where stages keep work that must survive a killed pod.
        gpu: Whether training and evaluation use the images with CUDA.
        storage_secret: The Kubernetes secret with the credentials for object stores; None for the usual name.

    Raises:
        SettingsError: There is no such pipeline.
    """
    if name not in PIPELINES:
        near = difflib.get_close_matches(name, PIPELINES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there is {', '.join(PIPELINES)}."
        raise SettingsError(f"no pipeline '{name}': {hint}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of kfp, about base images that nothing here uses
        from kfp import compiler

        named = {"storage_secret": storage_secret} if storage_secret else {}
        pipeline = importlib.import_module(PIPELINES[name]).create_pipeline(
            registry=registry, scratch_pvc=scratch_pvc, gpu=gpu, **named
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(pipeline, str(path))
    path.write_text(_DEFAULT.sub(_in_order, path.read_text(encoding="utf-8")), encoding="utf-8")


def _in_order(found: re.Match[str]) -> str:
    """A default in the head of the file, which kfp prints with an object's names in another order each time."""
    value = ast.literal_eval(found["value"])
    return f"{found['before']}{pprint.pformat(value, width=sys.maxsize, compact=True)}{found['after']}"
