#!/usr/bin/env python3
"""Entry point for all development tasks: sets up what a command needs, then runs it.

    python dev.py demo | serve | test | fuzz | bench | neighbours | lint | figures | pack

`python dev.py --help` says what each of them does. Standard library only.
"""

import signal
import sys

# An older Python shows this line instead of a traceback.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("dev.py needs Python 3.10 or newer; this is Python {}.{}.".format(*sys.version_info))

from devtools.commands import main
from devtools.running import ExpectedError, Terminated


def terminate(_number: int, _frame: object) -> None:
    """Turn SIGTERM into an exception, so that what was started is ended first."""
    raise Terminated


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, terminate)
    # A shell's background job ignores SIGINT, and so would the programs that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except ExpectedError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
