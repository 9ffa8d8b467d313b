"""``python -m faceflow.components.probe``: the stage from a shell."""

from faceflow.components.common.command import main
from faceflow.components.probe import stage

if __name__ == "__main__":
    main("probe", stage)
