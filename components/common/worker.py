"""A worker process of the local engine: Beam's own, which ends when the stage no longer wants it or is gone.

``python -m faceflow.components.common.worker FILE`` is started by Beam, with the environment that its worker expects;
it works as long as the file exists and the process that started it lives.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time

from faceflow.components.common.logs import import_beam

_POLL_SECONDS = 0.5


def _end_with(parent: int, file: str) -> None:
    while os.getppid() == parent and os.path.exists(file):
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def main() -> None:
    """Serve the runner that started this process."""
    threading.Thread(target=_end_with, args=(os.getppid(), sys.argv[1]), daemon=True).start()
    import_beam()
    from apache_beam.runners.worker import sdk_worker_main

    logging.disable(logging.INFO)
    # It warns that there is no folder for what a session pickled: our functions are imported.
    logging.getLogger(sdk_worker_main.__name__).setLevel(logging.ERROR)
    sdk_worker_main.main([])


if __name__ == "__main__":
    main()
