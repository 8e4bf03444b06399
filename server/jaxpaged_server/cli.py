"""The console script `jaxpaged`: finds the subcommand and hands over the rest of the line.

Imports a subcommand's module only when it is asked for, so that `jaxpaged --help` answers at once. Exit status: 0 done,
1 done but some requests failed, 2 could not be done (one line says why), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jaxpaged import __version__
from jaxpaged.commands import COMMANDS as ENGINE_COMMANDS
from jaxpaged.commands import FAILED, Command, guarded, run
from jaxpaged_server.commands import COMMANDS as SERVER_COMMANDS

COMMANDS = tuple(sorted((*SERVER_COMMANDS, *ENGINE_COMMANDS), key=lambda command: command.words[0] == "bench"))
"""Those of benchmarks last."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's); returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(words))


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage("jaxpaged", "An LLM inference engine in JAX.", COMMANDS))
        return 0
    if words[0] in ("-V", "--version"):
        print(f"jaxpaged {__version__}")
        return 0
    for command in COMMANDS:
        if (name := command.words) == tuple(words[: len(name)]):
            return run(command, words[len(name) :])
    group = tuple(command for command in COMMANDS if command.words[0] == words[0])
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(usage(f"jaxpaged {words[0]}", "", group))
        return 0
    print(_unknown(words, [" ".join(command.words) for command in COMMANDS]), file=sys.stderr)
    return FAILED


def usage(prog: str, about: str, commands: Sequence[Command]) -> str:
    """The help of a group of commands."""
    width = max(len(" ".join(command.words)) for command in commands) + 2
    lines = [f"  {' '.join(command.words):<{width}}{command.summary}" for command in commands]
    rest = f"`{prog.split()[0]} COMMAND --help` lists a command's options; `jaxpaged --version` prints the version."
    return "\n".join([f"usage: {prog} COMMAND [OPTIONS]", "", *([about, ""] if about else []), *lines, "", rest])


def _unknown(words: Sequence[str], names: Sequence[str]) -> str:
    from difflib import get_close_matches  # only now: start-up time

    asked = " ".join(word for word in words[:2] if not word.startswith("-")) or words[0]
    near = get_close_matches(asked, names, n=1, cutoff=0.5) or get_close_matches(words[0], names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}"
    return f"error: command is {asked!r}: there is no such command. {hint}"


if __name__ == "__main__":
    sys.exit(main())
