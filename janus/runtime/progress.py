"""Lines of progress, through `logging`: all log under "janus", whoever runs something says where to."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str], None]


class _Forward(logging.Handler):
    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress(record.getMessage())  # what it raises stops the work: that is how a run is interrupted


@contextmanager
def forwarded(progress: Progress | None) -> Iterator[None]:
    """Within it, each line that janus logs is given to `progress`, too; None: to logging's handlers only."""
    if progress is None:
        yield
        return
    logger, handler = logging.getLogger("janus"), _Forward(progress)
    before = logger.level
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def print_progress(line: str) -> None:
    """Plain lines on stderr: readable in a terminal, a log, and an executed notebook."""
    print(line, file=sys.stderr, flush=True)
