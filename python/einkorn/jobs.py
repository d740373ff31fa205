"""The jobs of the command as functions, made from the registry.

``einkorn.jobs.step_law.suggest(params=1e9, tokens=1e11)`` runs what
``einkorn step-law suggest --params 1e9 --tokens 1e11 --json`` prints, and returns it as a
dictionary ``{"system", "job", "options", "result", "tables", "plots", "notes", "seconds"}``.
"""

import inspect
import json
import sys
import types
from typing import Any

from . import _einkorn

_TYPES: dict[str, Any] = {
    "flag": bool,
    "integer": int,
    "real": float,
    "integers": list[int],
    "reals": list[float],
}


def describe() -> list[dict]:
    """All systems with their jobs and options."""
    return json.loads(_einkorn.describe())


def run(system: str, job: str, *, force: bool = False, **options: Any) -> dict:
    """Runs a job by name.

    Options are named as on the command line, with underscores for hyphens. ``force`` lets existing
    output files be replaced. Raises ValueError for bad options, OSError for bad files.
    """
    given = {
        name.rstrip("_").replace("_", "-"): _plain(value)
        for name, value in options.items()
        if value is not None
    }
    return json.loads(_einkorn.run_job(system, job, json.dumps(given), force))


def _plain(value: Any) -> Any:
    if hasattr(value, "__fspath__"):
        return value.__fspath__()
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _python_name(name: str) -> str:
    name = name.replace("-", "_")
    return name + "_" if name in {"in", "lambda", "from", "class", "is"} else name


def _parameters(options: list[dict]) -> list[inspect.Parameter]:
    ordered = sorted(options, key=lambda option: not option["positional"])
    parameters = []
    for option in ordered:
        kind = (
            inspect.Parameter.POSITIONAL_OR_KEYWORD
            if option["positional"]
            else inspect.Parameter.KEYWORD_ONLY
        )
        default = inspect.Parameter.empty if option["required"] else option.get("default")
        parameters.append(
            inspect.Parameter(
                _python_name(option["name"]),
                kind,
                default=default,
                annotation=_TYPES.get(option["type"], str),
            )
        )
    parameters.append(
        inspect.Parameter("force", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    )
    return parameters


def _docstring(job: dict) -> str:
    lines = [job["summary"][0].upper() + job["summary"][1:] + ".", "", "Parameters", "----------"]
    for option in job["options"]:
        lines.append(f"{_python_name(option['name'])} : {option['admissible']}")
        unit = f" ({option['unit']})" if "unit" in option else ""
        lines.append(f"    {option['help']}{unit}")
    return "\n".join(lines)


def _function(system: dict, job: dict):
    signature = inspect.Signature(_parameters(job["options"]), return_annotation=dict)

    def call(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        return run(system["name"], job["name"], **bound.arguments)

    call.__name__ = call.__qualname__ = _python_name(job["name"])
    call.__doc__ = _docstring(job)
    call.__signature__ = signature
    return call


def _build() -> None:
    for system in describe():
        module = types.ModuleType(f"{__name__}.{_python_name(system['name'])}", system["summary"])
        for job in system["jobs"]:
            setattr(module, _python_name(job["name"]), _function(system, job))
        setattr(sys.modules[__name__], _python_name(system["name"]), module)


_build()
