"""Runs every test: C++ (CTest), Python and command line (pytest). One closing line sums up."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(command: list[str], **options) -> tuple[int, str]:
    """Runs a command, shows its output as it comes, and returns it as well."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    lines = []
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(line)
    return process.wait(), "".join(lines)


def main() -> int:
    build = Path(os.environ.get("EINKORN_BUILD", ROOT / "build"))
    jobs = str(os.cpu_count() or 1)
    ctest_code, ctest = run(
        ["ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error", "-j", jobs]
    )
    pytest_code, pytest = run([sys.executable, "-m", "pytest", "-q", "einkorn", "tests", "python"])

    total = re.search(r"(\d+) tests failed out of (\d+)", ctest)
    failed = int(total.group(1)) if total else 0
    passed = int(total.group(2)) - failed if total else 0
    skipped = len(re.findall(r"\*\*\*Skipped", ctest))
    passed -= skipped
    counts = {
        word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", pytest)
    }
    failed += counts.get("failed", 0) + counts.get("error", 0)
    passed += counts.get("passed", 0)
    skipped += counts.get("skipped", 0)
    if (ctest_code or pytest_code) and failed == 0:
        failed = 1
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
