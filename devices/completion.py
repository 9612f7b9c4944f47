"""`fisherfleet completion bash | zsh | tcsh`: the text with which a shell completes `fisherfleet` and its commands.

It knows all commands that can be loaded here: what needs a package that is not installed is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import shtab

_DEVICE = "device"
"""Its parser is told its own name, as it has two."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print it; returns the exit status."""
    shell = command_parser().parse_args(argv).shell
    sys.stdout.write(shtab.complete(_all_commands(), shell) + "\n")
    return 0


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="fisherfleet completion",
        description="Print what makes a shell complete fisherfleet's commands and options.",
        epilog="bash: fisherfleet completion bash > ~/.local/share/bash-completion/completions/fisherfleet; "
        "zsh: fisherfleet completion zsh > a folder of $fpath, as _fisherfleet",
    )
    made.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="the shell that is to read it")
    return made


def _all_commands() -> argparse.ArgumentParser:
    from devices.command_line import COMMANDS  # noqa: PLC0415 - it names this module, too

    whole = argparse.ArgumentParser(prog="fisherfleet")
    commands = whole.add_subparsers()
    for name, command in COMMANDS.items():
        try:
            module = import_module(command.module)
        except ModuleNotFoundError:
            continue
        made = module.command_parser(f"fisherfleet {name}") if name == _DEVICE else module.command_parser()
        commands.add_parser(name, help=command.summary, parents=[made], add_help=False)
    return whole


if __name__ == "__main__":
    sys.exit(main())
