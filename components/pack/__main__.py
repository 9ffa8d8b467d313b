"""``python -m faceflow.components.pack``: the stage from a shell."""

from faceflow.components.common.command import main
from faceflow.components.pack import stage

if __name__ == "__main__":
    main("pack", stage)
