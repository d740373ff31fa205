"""The ``einkorn`` script that pip installs."""

import sys

from . import _einkorn


def main() -> None:
    """Runs the command with the words after its name and exits with its code."""
    sys.exit(_einkorn.run_command(sys.argv[1:]))
