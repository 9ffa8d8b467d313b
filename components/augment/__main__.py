"""``python -m faceflow.components.augment``: the stage from a shell."""

from faceflow.components.augment import stage
from faceflow.components.common.command import main

if __name__ == "__main__":
    main("augment", stage)
