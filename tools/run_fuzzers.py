"""Runs the sanitized tests, then each fuzz target for a few seconds from a corpus of its own.

Usage: run_fuzzers.py BUILD_FOLDER [SECONDS]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    build = Path(sys.argv[1]).resolve()
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    failed = subprocess.run(
        ["ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error", "-j", "2"]
    ).returncode
    targets = sorted(path for path in (build / "fuzz").iterdir() if path.name.endswith("_fuzz"))
    with tempfile.TemporaryDirectory() as corpus:
        make_corpus = ROOT / "einkorn/core/files/fuzz/make_corpus.py"
        subprocess.run([sys.executable, make_corpus, corpus], check=True)
        for target in targets:
            seeds = Path(corpus) / target.name.removesuffix("_fuzz")
            command = [target, f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=10"]
            if seeds.is_dir():
                command.append(seeds)
            print(f"fuzz: {target.name}", flush=True)
            result = subprocess.run(command, cwd=corpus, capture_output=True, text=True)
            if result.returncode:
                print(result.stderr[-4000:])
                failed += 1
    print(f"sanitizers: {len(targets)} fuzz targets, {'failed' if failed else 'all clean'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
