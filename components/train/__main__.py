"""``python -m faceflow.components.train``: the stage from a shell."""

from faceflow.components.common.command import main
from faceflow.components.train import stage

if __name__ == "__main__":
    main("train", stage)
