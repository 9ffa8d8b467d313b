"""``python -m faceflow.components.align``: the stage from a shell."""

from faceflow.components.align import stage
from faceflow.components.common.command import main

if __name__ == "__main__":
    main("align", stage)
