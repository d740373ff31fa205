"""Einkorn: kernels in every sense that machine learning gives the word.

Each system is a module of typed functions, e.g. ``einkorn.log_bessel.log_iv(v, x)``. Functions take
torch tensors or numpy arrays without copying and return what they were given. The jobs of the
``einkorn`` command are functions too: ``einkorn.jobs.step_law.suggest(params=1e9, tokens=1e11)``.
Operators for use inside models are registered as ``torch.ops.einkorn.*``.

Bad arguments raise ``ValueError``, bad files ``OSError``.
"""

import importlib
import os
from pathlib import Path

import torch  # noqa: F401  (its libraries must be loaded before ours)

_package = Path(__file__).resolve().parent
if (_package / "data").is_dir():
    os.environ.setdefault("EINKORN_HOME", str(_package))

from . import _einkorn, jobs  # noqa: E402

__version__ = "0.1.0"


def systems() -> list[dict]:
    """All systems of this build: name, wing, summary, paper, jobs, claim."""
    return jobs.describe()


def __getattr__(name: str):
    # Modules of systems are imported when they are first used.
    if not name.startswith("_") and (_package / f"{name}.py").exists():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'einkorn' has no attribute '{name}'")


def __dir__():
    names = {path.stem for path in _package.glob("*.py") if not path.stem.startswith("_")}
    return sorted(names | {"systems", "__version__"})


__all__ = ["jobs", "systems", "_einkorn", "__version__"]
