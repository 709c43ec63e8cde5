"""``llava-st``: runs a subcommand and turns its errors into one line and an exit code.

Exit codes: 0 success, 1 negative result (e.g. parity that differs), 2 invalid usage or input, 130
interrupted. A subcommand is a module of this package with ``HELP``, ``add_arguments(parser)`` and
``run(args) -> exit code``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from llava_st_ros import __version__
from llava_st_ros.errors import LlavaStError

COMMANDS = ("ground", "eval", "train", "export", "parity", "node")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (by default sys.argv); return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        args = build_parser(arguments).parse_args(arguments)
        code = args.run(args)
        sys.stdout.flush()  # raises BrokenPipeError here, not at exit
    except LlavaStError as error:
        print(f"llava-st: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("llava-st: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has exited. Python flushes stdout again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return int(code)


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


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"llava_st_ros.cli.{name}")


if __name__ == "__main__":
    sys.exit(main())
