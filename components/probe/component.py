"""The KFP component of the probe stage."""

from kfp import dsl


@dsl.component(base_image="localhost/faceflow/probe", install_kfp_package=False)
def probe(source: dict) -> str:
    """Fingerprint a source: size, date and ETag of its files, or a digest of its folder's listing.

    Never cached: it has to look each time, so that what follows is answered from the cache only if nothing changed.

    Args:
        source: The source spec, a JSON object with a kind.

    Returns:
        The fingerprint, a JSON text.
    """
    from faceflow.components.probe import stage

    return stage.run(stage.Settings(), stage.Inputs(source), stage.Outputs())
