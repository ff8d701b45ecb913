"""
The command `connect`: a file for each command, none of which is imported before it is asked for.

Exit codes: 0 done, 1 findings or failures, 2 wrong use, 3 our fault. A command returns its code, or None for 0.
"""

from __future__ import annotations

import gc
import io
import os
import sys

from engine.cli.overview import COMMANDS as COMMANDS
from engine.cli.overview import WIDE, columns, overview

COLLECTIONS = (
    200_000,
    20,
    20,
)  # a start makes many objects and no circle of garbage: a look for one takes a tenth of it


def main(args: list[str] | None = None) -> None:
    """Run a command and end the process with its code; CONNECT_TRACE=1 shows where an unexpected error came from."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """The exit code of a command; errors are told on stderr, in a line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to fail
    gc.set_threshold(*COLLECTIONS)
    args = sys.argv[1:] if args is None else args
    try:
        if args in (["--help"], ["-h"]) and "_CONNECT_COMPLETE" not in os.environ and columns() >= WIDE:
            print(overview())
            returned: object = 0
        else:
            from engine.cli.commands import called

            returned = called(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return returned if isinstance(returned, int) else 0
    except KeyboardInterrupt:
        _tell("\nstopped")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("CONNECT_TRACE"):
            raise
        from engine.errors import ConnectError

        if isinstance(error, ConnectError):
            _tell(f"connect: {error}")
            return error.exit_code
        said = " ".join(str(error).split())[:200]
        what = f"{type(error).__name__}: {said}" if said else type(error).__name__
        _tell(f"connect: this is our fault: {what} (CONNECT_TRACE=1 shows where)")
        return 3


def _tell(text: str) -> None:
    if sys.stderr is not None:
        print(text, file=sys.stderr)
