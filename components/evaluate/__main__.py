"""``python -m faceflow.components.evaluate``: the stage from a shell."""

from faceflow.components.common.command import main
from faceflow.components.evaluate import stage

if __name__ == "__main__":
    main("evaluate", stage)
