"""The command line: words -> a command, errors -> an exit code."""

import argparse
import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import NoReturn

import lengthen
from lengthen.cli.command import Parser
from lengthen.cli.commands import COMMANDS
from lengthen.cli.overrides import parse_overrides
from lengthen.config.names import COMMANDS as THEIR_COMMANDS
from lengthen.config.names import other_name
from lengthen.util import faults
from lengthen.util.disk import STORAGE
from lengthen.util.errors import (
    LengthenError,
    PeerError,
    SettingError,
    StorageError,
    nearest,
    shown,
)

# What is wrong with a path that a person gave, and not with the disk.
WRONG_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}

MAY_BE_EMPTY = ("--prompt",)  # an empty one begins a document

SETTINGS = """
Any setting can follow as --table.setting VALUE, under the name it has in TOML:
  --pacing.start 8 --batch.rows 64 --budget.tokens 20M --run.precision bf16
"""


def main(arguments: Sequence[str] | None = None, *, alone: bool = False) -> int:
    """Run one command and return its exit code; `errors` has the table.

    `alone` says that this process does nothing else, so that its numbers may get a mode of ours.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _dispatch(words, alone=alone)
        if sys.stdout is not None:  # it may be closed from the start
            # Here, and not at Python's end, where a failure has a code of its own.
            sys.stdout.flush()
        return code
    except LengthenError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        _stop_output()  # whoever read it has closed it
        return 0
    except OSError as error:
        return _end_by_system(error)
    except Exception as error:
        if missing := _missing(error):
            # As plainly as can be: what says all else may need that package.
            print(f"lengthen: {missing}", file=sys.stderr)
            return SettingError.exit_code
        return _end_by_bug()


def _end_by_system(error: OSError) -> int:
    """Say what the operating system refused; return the exit code."""
    if error.filename is None and error.errno not in STORAGE:
        return _end_by_bug()
    if error.filename is None:
        _stop_output()  # most likely it was that; what we write goes through `disk`
    where = f"{shown(str(error.filename))}: " if error.filename else ""
    _say(f"{where}{(error.strerror or str(error)).lower()}")
    return SettingError.exit_code if error.errno in WRONG_PATH else StorageError.exit_code


def _end_by_bug() -> int:
    traceback.print_exc()
    _say("this is a bug; please report the lines above")
    return 1


def _stop_output() -> None:
    """Send no more to where our output went: Python tries once more at its end, and complains."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def entry() -> NoReturn:
    """Carry out the command of this process, and end it with the code."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # What the terminal has no letter for, or is no text, is written out and hides no result.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = main(alone=True)
    _leave(code)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _stop_output()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # A thread of torch's groups may wait for the interpreter's lock still. Python would end it
        # by unwinding its stack, which C++ answers with abort(), and the code would be lost.
        os._exit(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """Write the exit code where a launch file asks for it: torchrun's own is 1 for all of ours.

    Of several ranks one may know the cause; the others know only that it is gone.
    """
    path = os.environ.get("LENGTHEN_EXIT_FILE")
    if code and path and (code != PeerError.exit_code or not os.path.exists(path)):
        with suppress(OSError), open(path, "w", encoding="utf-8") as file:
            file.write(f"{code}\n")


def _missing(error: Exception) -> str:
    """Say which package an import did not find, or not as we need it; empty where it is ours."""
    name = error.name or "" if isinstance(error, ImportError) else ""
    package = name.partition(".")[0]
    if package in ("", "lengthen"):
        return ""
    with suppress(PackageNotFoundError):
        found = version(package)
        if not (isinstance(error, ModuleNotFoundError) and name == package):
            lacked = str(error).partition(" (")[0]  # after it comes where the package lies
            return f"{package} {found} does not fit: {lacked}; pip install --upgrade {package}"
    wanted = "backports.zstd" if package == "backports" else package
    return f"the package {package} is not installed; pip install {wanted}"


def _say(text: str) -> None:
    from lengthen.util.console import note

    note(text)


def _dispatch(words: list[str], *, alone: bool) -> int:
    faults.asked()  # now, for a mistake in it reads like damage where a file is read
    _refuse_empty(words)
    settings, words = parse_overrides(words)
    parser, commands = _parser()
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        hint = other_name(name, THEIR_COMMANDS) or nearest(name, COMMANDS)
        raise SettingError("command", "no such command", name, hint)
    named = commands.get(name or "", parser)
    named.check_options(words)
    options, unknown = parser.parse_known_args(words)
    if unknown:
        named.refuse(unknown[0])
    if options.command is None:
        parser.print_help()
        return 0
    command = COMMANDS[options.command]
    if settings and not command.takes_settings:
        raise SettingError(next(iter(settings)), f"{options.command} takes no settings")
    options.alone = alone
    return command.run(options, settings)


def _refuse_empty(words: list[str]) -> None:
    """Raise SettingError for an empty argument: as a path it would be the working directory."""
    for before, word in pairwise(["lengthen", *words]):
        option, equals, value = before, "=", word
        if word.startswith("--"):
            option, equals, value = word.partition("=")
        if equals and not value and option not in MAY_BE_EMPTY:
            hint = "a variable of the shell may not be set"
            raise SettingError(option, "the argument after it is empty", None, hint)


def _parser() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="lengthen",
        description="Pre-train GPT models with sequence length warmup: start short, lengthen.",
        epilog="`lengthen COMMAND --help` shows examples; `lengthen demo` is the place to begin.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lengthen {lengthen.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        settings = SETTINGS if command.takes_settings else ""
        sub = commands.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            epilog=f"examples:\n{command.examples.strip(chr(10))}\n{settings}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.arguments(sub)
        sub.takes_settings = command.takes_settings
    return parser, commands.choices
