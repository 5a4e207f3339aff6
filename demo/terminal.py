"""What the demo writes to the terminal: lines that stay, and a status that passes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

CLEAR_LINE = "\r\x1b[2K"


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def status_line(every_s: float = 5) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current status.

    A terminal shows it in place; elsewhere it is printed as a line, at most once in `every_s`.
    """
    is_terminal = sys.stdout.isatty()
    next_line = time.monotonic() + every_s

    def show(text: str) -> None:
        nonlocal next_line
        if is_terminal:
            print(f"{CLEAR_LINE}{text}", end="", flush=True)
        elif time.monotonic() >= next_line:
            next_line = time.monotonic() + every_s
            say(text)

    try:
        yield show
    finally:
        if is_terminal:
            print(CLEAR_LINE, end="", flush=True)
