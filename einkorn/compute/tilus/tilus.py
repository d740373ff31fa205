"""Weights of 1 to 8 bits: number types, register layouts, a tile machine, and products.

Number types are names: ``u1`` .. ``u8``, ``i1`` .. ``i8``, every split of ``f3`` .. ``f8`` such as
``f6e3m2`` (``f6`` alone is the default split of its width).

Ding, Hou, Zhang, Lin, Chen, Yu, Wang, Pekhimenko, "Tilus: A Virtual Machine for Arbitrary
Low-Precision GPGPU Computation in LLM Serving", 2025, arXiv 2504.12984.
"""

import os
from typing import Any, NamedTuple

import numpy as np
import torch

from ._arrays import Array, as_tensor
from ._einkorn import tilus as _tilus

__all__ = [
    "Layout",
    "QuantizedLinear",
    "QuantizedWeights",
    "change_layout",
    "check_program",
    "cuda_source",
    "decode",
    "dequantize",
    "encode",
    "load",
    "quantize",
    "restore_layout",
    "run_program",
    "save",
    "type_facts",
]

Layout = _tilus.Layout
"""How a tensor is spread over threads: ``Layout("spatial(8,4).local(1,2)")``.

``f * g`` tiles, ``f / g`` and ``f.left_divide(g)`` undo it, ``str(f)`` and ``f.diagram()`` show it.
"""


class TypeFacts(NamedTuple):
    """The full name of a number type, its bits, and its largest and smallest numbers."""

    name: str
    bits: int
    max: float
    min: float


class QuantizedWeights(NamedTuple):
    """Weights [rows, columns] = [in features, out features] in a small type.

    ``packed``: uint8, codes row-major and bit-contiguous; ``scales`` (and ``offsets`` of unsigned
    types): [rows / group, columns].
    """

    type: str
    rows: int
    columns: int
    group: int
    packed: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor | None


def type_facts(type: str) -> TypeFacts:
    """What there is to know of a type."""
    return TypeFacts(*_tilus.type_facts(type))


def decode(type: str, codes: Any) -> np.ndarray:
    """The numbers that codes stand for, float64."""
    flat = np.asarray(codes, dtype=np.uint32)
    return np.array(_tilus.decode(type, flat.ravel().tolist())).reshape(flat.shape)


def encode(type: str, values: Any) -> np.ndarray:
    """The codes of the nearest numbers, uint32: ties to even, saturating."""
    flat = np.asarray(values, dtype=np.float64)
    return np.array(_tilus.encode(type, flat.ravel().tolist()), dtype=np.uint32).reshape(flat.shape)


def quantize(weight: Array, type: str, *, group: int = 128, scale: str = "f16") -> QuantizedWeights:
    """Quantises a matrix [out features, in features].

    Parameters
    ----------
    weight
        Floating-point matrix, finite.
    type
        ``u1`` .. ``u8`` (with offsets), ``i2`` .. ``i8``, ``f3`` .. ``f8``.
    group
        Consecutive inputs that share a scale; 0 for all of them.
    scale
        Type of the scales: ``f16``, ``bf16`` or ``f32``.
    """
    return QuantizedWeights(*_tilus.quantize(as_tensor(weight).detach(), type, group, scale))


def dequantize(weights: QuantizedWeights) -> torch.Tensor:
    """The weights as float32 [rows, columns]."""
    return _tilus.dequantize(*weights)


def save(path: str | os.PathLike, weights: QuantizedWeights, *, force: bool = False) -> None:
    """Writes a safetensors file; an existing one is replaced only with ``force``."""
    _tilus.save(os.fspath(path), force, *weights)


def load(path: str | os.PathLike) -> QuantizedWeights:
    """Reads what :func:`save` or ``einkorn tilus quantize`` wrote."""
    return QuantizedWeights(*_tilus.load(os.fspath(path)))


def change_layout(
    packed: torch.Tensor,
    bits: int,
    rows: int,
    columns: int,
    *,
    tile_k: int = 16,
    tile_n: int = 16,
) -> torch.Tensor:
    """Packed codes [rows, columns] as tiles that a warp loads in whole bytes."""
    return _tilus.change_layout(packed, bits, rows, columns, tile_k, tile_n)


def restore_layout(
    tiles: torch.Tensor, bits: int, *, tile_k: int = 16, tile_n: int = 16
) -> torch.Tensor:
    """The inverse of :func:`change_layout`."""
    return _tilus.restore_layout(tiles, bits, tile_k, tile_n)


def check_program(source: str) -> str:
    """Checks a program and returns its text, formatted. ValueError says what is wrong."""
    return _tilus.check_program(source)


def cuda_source(source: str) -> str:
    """The CUDA C++ of a program."""
    return _tilus.cuda_source(source)


def run_program(
    source: str,
    *arguments: int | torch.Tensor | np.ndarray,
    check_races: bool = True,
    shuffle: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Runs a program on its arguments, in the order of its parameters; pointers are arrays.

    On the CPU it is interpreted, arrays are changed in place, and the result holds counts of bytes
    and operations and what was printed. With tensors on a GPU it is compiled and queued.
    """
    converted = [
        int(value) if isinstance(value, int | np.integer) else as_tensor(value)
        for value in arguments
    ]
    return _tilus.run_program(source, converted, check_races, shuffle, seed)


class QuantizedLinear(torch.nn.Module):
    """y = x W^T + bias with quantised W; differentiable in x and the bias.

    Parameters
    ----------
    weights
        What :func:`quantize` or :func:`load` returned.
    bias
        [out features], or None.
    """

    def __init__(self, weights: QuantizedWeights, bias: torch.Tensor | None = None):
        super().__init__()
        words, scales, offsets = _tilus.prepare(*weights)
        self.type, self.in_features, self.out_features, self.group = weights[:4]
        self.register_buffer("words", words)
        self.register_buffer("scales", scales)
        self.register_buffer("offsets", offsets)
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach().clone())

    @classmethod
    def from_linear(
        cls, linear: torch.nn.Linear, type: str, *, group: int = 128, scale: str = "f16"
    ) -> "QuantizedLinear":
        """Quantises the weight of a linear layer."""
        return cls(quantize(linear.weight, type, group=group, scale=scale), linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.ops.einkorn.tilus_linear(
            x,
            self.words,
            self.scales,
            self.offsets,
            self.type,
            self.in_features,
            self.out_features,
            self.group,
        )
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"type={self.type}, group={self.group}, bias={self.bias is not None}"
        )
