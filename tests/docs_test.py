"""Code in the documentation runs.

Shell blocks (```sh) that begin with ``einkorn`` are run line by line, Python blocks (```python) as
one script, C++ blocks (```cpp) are compiled against an installed copy (package_test.py).
Blocks fenced as ```text are for reading.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ["EINKORN_BUILD"])
COMMAND = BUILD / "einkorn"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Of the rooms those that are built.
PAGES += [
    page
    for page in sorted((ROOT / "einkorn").glob("*/*/README.md"))
    if (BUILD / "python/einkorn" / f"{page.parent.name}.py").exists()
]


def blocks(language):
    found = []
    for page in PAGES:
        for number, match in enumerate(
            re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)
        ):
            found.append(pytest.param(match.group(1), id=f"{page.relative_to(ROOT)}-{number}"))
    return found


@pytest.mark.parametrize("script", blocks("sh"))
def test_commands(script, tmp_path):
    lines = script.replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        if not words or words[0] != "einkorn":
            continue
        if words[1] in {"bench", "reproduce"} and "--help" not in words:
            continue  # minutes of work; tests/command_test.py runs them
        result = subprocess.run([COMMAND, *words[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, f"{line}\n{result.stderr}"


@pytest.mark.parametrize("script", blocks("python"))
def test_python(script, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
