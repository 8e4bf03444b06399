"""Read the two set-up commands out of README.md, and check what the first one printed.

    readme.py command 1|2             print the command
    readme.py check FILE              FILE holds the first command's stdout: did it generate text?

The commands are the only two ```sh blocks under the heading "## Set up"; anything else there is an error, so that the
README cannot drift from what is tested.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
MIN_GENERATED_CHARACTERS = 8


def set_up_commands(readme: str) -> tuple[str, str]:
    """The two commands. Raises ValueError where there are not exactly two."""
    section = re.search(r"^## Set up\n(.*?)(?=^## |\Z)", readme, flags=re.MULTILINE | re.DOTALL)
    if section is None:
        raise ValueError('README.md has no heading "## Set up"')
    blocks = re.findall(r"^```sh\n(.*?)^```$", section[1], flags=re.MULTILINE | re.DOTALL)
    if len(blocks) != 2:
        raise ValueError(f'README.md has {len(blocks)} ```sh blocks under "## Set up": there must be two')
    return blocks[0].strip(), blocks[1].strip()


def prompt_of(command: str) -> str:
    """What the command asks to continue: its last word."""
    return shlex.split(command)[-1]


def generated_text(stdout: str, prompt: str) -> str:
    """What follows the prompt where it stands at the beginning of a line. Raises ValueError where it does not."""
    at = f"\n{stdout}".rfind(f"\n{prompt}")
    if at < 0:
        raise ValueError(f"the prompt {prompt!r} begins no line of the output")
    return stdout[at + len(prompt) :]


def main(argv: list[str]) -> None:
    commands = set_up_commands(README.read_text(encoding="utf-8"))
    match argv:
        case ["command", ("1" | "2") as number]:
            print(commands[int(number) - 1])
        case ["check", path]:
            text = generated_text(Path(path).read_text(encoding="utf-8"), prompt_of(commands[0]))
            if len(text.strip()) < MIN_GENERATED_CHARACTERS:
                raise ValueError(f"the first command generated {text!r}: too short to be an answer")
            print(f"generated {len(text)} characters")
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
