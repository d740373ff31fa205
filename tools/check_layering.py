"""Who may include whom. Exits 1 and names each line that breaks a rule."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A folder below einkorn/ -> the folders that its files may include, beside its own.
ALLOWED = {
    "core": set(),
    "nn": {"core"},
    "compute": {"core", "nn"},
    "convolution": {"core", "nn", "compute"},
    "similarity": {"core", "nn", "compute"},
    "scaling": {"core", "nn"},
    "search": {"core", "nn", "convolution", "profile"},
    "profile": {"core", "nn"},
    "models": {"core", "nn", "convolution", "compute"},
    "assess": {"core", "nn", "convolution", "models"},
}
# The only files of core that may know torch.
CORE_WITH_TORCH = {
    "device.cpp",
    "machine.cpp",
    "precompiled.h",
    "tensor.h",
    "tensor.cpp",
}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]')
TORCH = re.compile(r"^(torch|ATen|c10|pybind11)/")


def tracked_sources():
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "einkorn", "app", "python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [Path(name) for name in listed if re.search(r"\.(h|cpp|cu|cuh)$", name)]


def problem(path: Path, included: str) -> str | None:
    if path.parts[0] != "einkorn":
        return None
    wing = path.parts[1]
    is_test = path.stem.endswith("_test") or path.stem.endswith("_fuzz")
    if wing == "core" and TORCH.match(included) and not is_test:
        if path.name not in CORE_WITH_TORCH:
            return "core stays free of torch outside " + ", ".join(sorted(CORE_WITH_TORCH))
    if path.suffix in {".cu", ".cuh"} and TORCH.match(included):
        return "CUDA sources take pointers and sizes, not torch's headers"
    if included.startswith("app/") and not is_test:
        return "the library knows nothing of the command"
    if not included.startswith("einkorn/"):
        return None
    parts = Path(included).parts
    target = parts[1]
    if target == wing:
        return other_room(path, parts)
    if target not in ALLOWED[wing]:
        return f"{wing} may include {', '.join(sorted(ALLOWED[wing])) or 'nothing else'}"
    return None


def other_room(path: Path, parts: tuple[str, ...]) -> str | None:
    """Within a wing, a system sees itself and what the wing shares, not its neighbours."""
    if path.parts[1] in {"core", "nn"}:
        return None
    own_room = path.parts[2] if len(path.parts) > 3 else None
    room = parts[2] if len(parts) > 3 else None
    if room is not None and room != own_room:
        return "a system does not include its neighbours: move what both need to the wing"
    return None


def main() -> int:
    broken = 0
    for path in tracked_sources():
        source = (ROOT / path).read_text(encoding="utf-8")
        for number, line in enumerate(source.splitlines(), 1):
            match = INCLUDE.match(line)
            words = problem(path, match.group(1)) if match else None
            if words:
                print(f"{path}:{number}: {match.group(1)}: {words}")
                broken += 1
    print(f"layering: {broken} problems")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
