"""The command ``faceflow``.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import click

from faceflow.components.common.errors import FaceflowError

_LAYOUTS = ("folder", "insightface_bin", "insightface_rec", "lfw", "megaface", "trillion_pairs")
_WIDTH_OF_A_FILE = 160
_WRAPPED: dict[str, Any] = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
_root = click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of the runs, their cache and scratch.",
)


class _Commands(click.Group):
    """The commands of this module, and those that other modules bring."""

    elsewhere = {"images": "faceflow.pipelines.images"}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, in the order of a first use."""
        return ["run", "clean", "synthesize", "compile", *self.elsewhere]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command; one of another module is imported for it."""
        if cmd_name in self.elsewhere:
            command: click.Command = importlib.import_module(self.elsewhere[cmd_name]).command
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings=_WRAPPED)
@click.version_option(package_name="faceflow")
def cli() -> None:
    """From a raw face archive to an evaluated face-recognition model."""


@cli.command()
@click.argument("preset")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter of the pipeline, for instance train_epochs=3; the value is YAML. May be repeated.",
)
@click.option(
    "--source",
    "source_paths",
    multiple=True,
    metavar="PATH",
    help="Train on a folder or archive <identity>/<image> of your own. May be repeated.",
)
@_root
@click.option(
    "--docker", "in_containers", is_flag=True, help="Run the stages in their images (make images builds them)."
)
@click.option("--verbose", is_flag=True, help="Show what the stages say.")
def run(
    preset: str,
    settings: tuple[str, ...],
    source_paths: tuple[str, ...],
    root: Path,
    in_containers: bool,
    verbose: bool,
) -> None:
    """Run a pipeline on this machine.

    PRESET is a YAML file of parameters, or the name of one that comes with faceflow: demo, folder. Stages whose inputs,
    settings and code did not change are answered from the cache; --set rerun_align=2 runs one again, with what follows.
    """
    from faceflow.pipelines import local

    options = local.Options(preset, settings, source_paths, root, in_containers, verbose)
    sys.exit(local.run(options, _console()))


@cli.command()
@_root
@click.option("--keep", type=click.IntRange(min=0), default=1, show_default=True, help="Newest runs to keep.")
@click.option("--all", "everything", is_flag=True, help="Remove every run, the cache and scratch.")
@click.option("--dry-run", is_flag=True, help="Only list.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(root: Path, keep: int, everything: bool, dry_run: bool, yes: bool) -> None:
    """List old runs and caches with their sizes, and remove them.

    A run that found stages in the cache leans on the runs that made them: those are kept with it.
    """
    from faceflow.pipelines import clean as cleaning

    cleaning.clean(root, _console(), keep=0 if everything else keep, everything=everything, dry_run=dry_run, yes=yes)


@cli.command(name="compile")
@click.option("--pipeline", default="training", show_default=True, help="The pipeline.")
@click.option("--registry", help="Where the images are, for instance registry.example.org/faceflow.")
@click.option("--scratch-pvc", metavar="NAME", help="PersistentVolumeClaim for partial downloads and checkpoints.")
@click.option(
    "--storage-secret",
    metavar="NAME",
    help="Kubernetes secret with the credentials for object stores; faceflow-storage unless given.",
)
@click.option("--gpu", is_flag=True, help="Use the images with CUDA for training and evaluation.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; otherwise the one that is kept beside the pipeline's source.",
)
def compile_command(
    pipeline: str,
    registry: str | None,
    scratch_pvc: str | None,
    storage_secret: str | None,
    gpu: bool,
    output: Path | None,
) -> None:
    """Write the YAML to upload to a Kubeflow Pipelines backend, with the names that the images have now."""
    from faceflow.pipelines import compilation

    if output is None and (registry or scratch_pvc or storage_secret or gpu):
        raise click.UsageError(
            "--registry, --scratch-pvc, --storage-secret and --gpu need --output FILE: the file beside the pipeline's "
            "source is for none."
        )
    path = output or compilation.golden(pipeline)
    compilation.compile_pipeline(
        pipeline, path, registry=registry, scratch_pvc=scratch_pvc, gpu=gpu, storage_secret=storage_secret
    )
    click.echo(path)


def _console() -> Any:
    from rich.console import Console

    # A file or a pipe has no width of its own, and a table should not wrap in it.
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_FILE)


def _one_or_range(ctx: click.Context, param: click.Parameter, value: str) -> int | tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", value)
    if not found or int(found[1]) < 1 or (found[2] and int(found[2]) < int(found[1])):
        raise click.BadParameter(f"{value!r} is neither a number such as 20 nor a range such as 4-60.")
    return (int(found[1]), int(found[2])) if found[2] else int(found[1])


@cli.command()
@click.option("--layout", type=click.Choice(_LAYOUTS), required=True, help="The data set whose files to imitate.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
@click.option("--identities", type=click.IntRange(min=1), default=20, show_default=True)
@click.option(
    "--images-per-identity",
    callback=_one_or_range,
    default="10",
    show_default=True,
    metavar="N|MIN-MAX",
    help="Images of each identity.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same bytes.")
@click.option("--size-px", type=click.IntRange(64, 512), help="Width and height; otherwise those of the real data set.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that render.")
def synthesize(
    layout: str,
    out: Path,
    identities: int,
    images_per_identity: int | tuple[int, int],
    seed: int,
    size_px: int | None,
    workers: int,
) -> None:
    """Render synthetic faces into the files of a real data set."""
    from faceflow.components.common.synthetic import layouts

    layouts.write(
        layout,
        out,
        identities=identities,
        images_per_identity=images_per_identity,
        seed=seed,
        size_px=size_px,
        workers=workers,
    )
    click.echo(out)


def main() -> None:
    """The console script: typed errors as one line, Ctrl-C as status 130."""
    try:
        cli.main(standalone_mode=False)
    except FaceflowError as error:
        click.echo(f"faceflow: {error}", err=True)
        sys.exit(1)
    except click.exceptions.Abort:
        click.echo("faceflow: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
