"""``llava-st``: runs a subcommand and turns its errors into one line and an exit code.

Exit codes: 0 success, 1 negative result (e.g. parity that differs), 2 invalid usage, input or
environment (a full disk, no memory), 70 a fault of this program, 130 interrupted. A subcommand is a
module of this package with ``HELP``, ``add_arguments(parser)`` and ``run(args) -> exit code``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from llava_st_ros import __version__
from llava_st_ros.errors import LlavaStError, reason_of
from llava_st_ros.standard_streams import open_missing_streams

COMMANDS = (
    *("ground", "eval", "train", "export", "parity"),
    *("node", "watch", "view", "ask", "query"),
)
TRACEBACK = "LLAVA_ST_TRACEBACK"  # environment variable: 1 prints the traceback of every error
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
_REMEDIES = {
    errno.ENOSPC: "free disk space or write to another disk",
    errno.EDQUOT: "free disk space or write to another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f) or write to another disk",
    errno.EROFS: "write to another folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (by default sys.argv); return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_missing_streams()
    try:
        args = build_parser(arguments).parse_args(arguments)
        code = int(args.run(args))
        sys.stdout.flush()  # a full disk or a closed pipe raises here, not at exit
        return code
    except BrokenPipeError as error:
        if error.filename is None:  # the reader of stdout (head, less) has exited
            _discard_stdout()
            return 0
        return _report(error)
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser. If a subcommand is named, only its module is imported and added."""
    parser = argparse.ArgumentParser(
        prog="llava-st", description="Ground text queries in video: boxes in space, spans in time."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    named = arguments[0] if arguments else ""
    for name in (named,) if named in COMMANDS else COMMANDS:
        module = _load(name)
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def _report(error: BaseException) -> int:
    """Print an error as one line on stderr; return the exit code."""
    code, line = _describe(error)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _discard_stdout()
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed or on the full disk
        if os.environ.get(TRACEBACK, "") not in ("", "0"):
            traceback.print_exception(error)
        print(f"llava-st: {line}", file=sys.stderr, flush=True)
    return code


def _describe(error: BaseException) -> tuple[int, str]:
    """The exit code and the line that describe an error."""
    if isinstance(error, LlavaStError):
        return error.code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, OSError) and error.errno is not None:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        where = f"{' -> '.join(names)}: " if names else ""
        return 2, str(LlavaStError(where + reason_of(error), _REMEDIES.get(error.errno, "")))
    if _is_out_of_memory(error):
        return 2, str(LlavaStError("out of memory", "close other programs or use a smaller model"))
    where = _place(error)
    problem = f"internal error, a fault of this program: {type(error).__name__}: {reason_of(error)}"
    return INTERNAL_ERROR, str(
        LlavaStError(f"{problem}{where}", f"{TRACEBACK}=1 shows the traceback; please report it")
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch had no memory; torch's error has no type of its own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _place(error: BaseException) -> str:
    """The innermost line of this package in an error's traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "llava_st_ros" in frame.filename] or list(frames)
    if not ours:
        return ""
    return f" ({os.path.basename(ours[-1].filename)}:{ours[-1].lineno})"


def _discard_stdout() -> None:
    """Let stdout lead nowhere: Python flushes it again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"llava_st_ros.cli.{name}")


if __name__ == "__main__":
    sys.exit(main())
