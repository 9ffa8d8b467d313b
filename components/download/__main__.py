"""``python -m faceflow.components.download``: the stage from a shell."""

from faceflow.components.common.command import main
from faceflow.components.download import stage

if __name__ == "__main__":
    main("download", stage)
