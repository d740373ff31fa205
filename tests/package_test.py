"""An installed copy serves a stranger's five-line program, the command, and the docs' C++ code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = os.environ["EINKORN_BUILD"]

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(stranger LANGUAGES CXX)
find_package(einkorn 0.1 REQUIRED)
add_executable(stranger main.cpp)
target_link_libraries(stranger PRIVATE einkorn::einkorn)
"""

PROGRAM = """
#include <einkorn/scaling/step_law/step_law.h>
#include <cstdio>
int main() {
  std::printf("%.6g\\n", *einkorn::step_law::suggest(1e9, 1e11).learning_rate);
}
"""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefix")
    command = ["cmake", "--install", BUILD, "--prefix", str(folder), "--component", "library"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def build_and_run(program, prefix, folder):
    (folder / "CMakeLists.txt").write_text(PROJECT)
    (folder / "main.cpp").write_text(program)
    # The stranger has no sources of ours and no environment of ours.
    subprocess.run(
        ["cmake", "-G", "Ninja", "-S", folder, "-B", folder / "b", f"-DCMAKE_PREFIX_PATH={prefix}"],
        check=True,
        capture_output=True,
        text=True,
    )
    built = subprocess.run(["cmake", "--build", folder / "b"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-3000:]
    return subprocess.check_output([folder / "b/stranger"], text=True)


def test_find_package(prefix, tmp_path):
    assert build_and_run(PROGRAM, prefix, tmp_path) == "0.00166238\n"


def test_installed_command_finds_its_data(prefix, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EINKORN")}
    result = subprocess.run(
        [prefix / "bin/einkorn", "reproduce", "step-law"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_completions_and_man_page_are_installed(prefix):
    share = prefix / "share"
    assert (share / "man/man1/einkorn.1").exists()
    assert (share / "bash-completion/completions/einkorn").exists()
    assert (share / "zsh/site-functions/_einkorn").exists()
    assert (share / "fish/vendor_completions.d/einkorn.fish").exists()


def documented_programs():
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for number, match in enumerate(
            re.finditer(r"^```cpp\n(.*?)^```", page.read_text(), re.M | re.S)
        ):
            if "int main" in match.group(1):
                name = f"{page.relative_to(ROOT)}-{number}"
                found.append(pytest.param(match.group(1), id=name))
    return found


@pytest.mark.parametrize("program", documented_programs())
def test_documented_programs(program, prefix, tmp_path):
    build_and_run(program, prefix, tmp_path)


def test_python_imports_without_the_source_tree(tmp_path):
    script = "import einkorn; print(len(einkorn.systems()))"
    environment = {**os.environ, "PYTHONPATH": os.path.join(BUILD, "python")}
    out = subprocess.check_output(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, text=True
    )
    assert int(out) >= 1
