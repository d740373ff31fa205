"""Checks, or with --fix repairs, the format of C++ (clang-format) and Python (ruff) sources."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def tool(name: str) -> str:
    """The tool of this interpreter's environment, else the one on PATH."""
    beside = BIN / name
    return str(beside) if beside.exists() else name


def sources(pattern: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [name for name in listed if re.search(pattern, name) and (ROOT / name).exists()]


def main() -> int:
    fix = "--fix" in sys.argv[1:]
    cpp = sources(r"\.(h|cpp|cu|cuh)$")
    python = sources(r"\.py$")
    commands = [
        [tool("clang-format"), "-i", *cpp]
        if fix
        else [tool("clang-format"), "--dry-run", "-Werror", *cpp],
        [tool("ruff"), "format", *([] if fix else ["--check"]), "-q", *python],
        [tool("ruff"), "check", *(["--fix"] if fix else []), "-q", *python],
    ]
    failed = sum(subprocess.run(command, cwd=ROOT).returncode != 0 for command in commands)
    print(f"format: {len(cpp)} C++ and {len(python)} Python files, {failed} checks failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
