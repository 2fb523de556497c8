"""`clinreadnet` and `python -m clinreadnet`. Ctrl-C during the imports prints no traceback."""

import os
import signal


def interrupted(number: int, frame: object) -> None:
    """Print what `clinreadnet.cli.main` prints of Ctrl-C, and end the process."""
    try:
        os.write(2, b"clinreadnet: interrupted\n")
    finally:
        os._exit(130)


_before = signal.getsignal(signal.SIGINT)
if _before is signal.default_int_handler:
    signal.signal(signal.SIGINT, interrupted)

from clinreadnet.cli import main  # noqa: E402

if _before is signal.default_int_handler:
    signal.signal(signal.SIGINT, _before)  # `main` and processes that it spawns raise it

if __name__ == "__main__":
    main()
