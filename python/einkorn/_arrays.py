"""Numpy arrays and other DLPack objects in, the same kind out."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Array = Any
"""A torch tensor, a numpy array, or any object with ``__dlpack__``."""

F = TypeVar("F", bound=Callable[..., Any])


def is_foreign_array(value: object) -> bool:
    """True for arrays that are not torch tensors."""
    return not isinstance(value, torch.Tensor) and hasattr(value, "__dlpack__")


def as_tensor(value: Array) -> torch.Tensor:
    """A tensor over the same memory where that is possible.

    Read-only and byte-swapped numpy arrays, which torch cannot share, are copied.
    """
    if isinstance(value, torch.Tensor):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "flags"):
        native = value.dtype.newbyteorder("=") if not value.dtype.isnative else value.dtype
        if not value.flags.writeable or any(stride < 0 for stride in value.strides):
            value = value.astype(native, copy=True)
        return torch.from_numpy(value.astype(native, copy=False))
    return torch.from_dlpack(value)


def _to_numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, tuple):
        converted = [_to_numpy(item) for item in value]
        return type(value)(*converted) if hasattr(value, "_fields") else tuple(converted)
    return value


def accepts_arrays(*names: str) -> Callable[[F], F]:
    """Lets the named parameters be numpy arrays (or DLPack objects); results follow them.

    If any of them was a numpy array and none a tensor, tensors in the result become numpy arrays.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            given = [bound.arguments[name] for name in names if name in bound.arguments]
            foreign = any(is_foreign_array(value) for value in given)
            any_tensor = any(isinstance(value, torch.Tensor) for value in given)
            for name in names:
                value = bound.arguments.get(name)
                if is_foreign_array(value):
                    bound.arguments[name] = as_tensor(value)
            result = function(*bound.args, **bound.kwargs)
            return _to_numpy(result) if foreign and not any_tensor else result

        return wrapper  # type: ignore[return-value]

    return decorate
