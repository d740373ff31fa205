"""KIVI: a key-value cache at 1 to 8 bits, without calibration.

:class:`KiviCache` holds the keys and values of a decoder's layers and attends over them as they are
stored. Keys are quantised per channel in groups of tokens, values per token in groups of channels;
the newest tokens stay as they are.

>>> cache = KiviCache(kv_heads=8, head_dim=128)
>>> cache.prefill(0, keys, values)              # [batch, kv_heads, tokens, head_dim]
>>> cache.append(0, new_keys, new_values)       # one token, or several
>>> out = cache.attend(0, queries)              # [batch, heads, 1, head_dim]

``quantize_pack``, ``unpack_dequantize`` and ``qgemv_outer`` are the quantiser on whole tensors, in
the packing of the official repository.

Liu, Yuan, Jin, Zhong, Xu, Braverman, Chen, Hu, "KIVI: A Tuning-Free Asymmetric 2bit Quantization
for KV Cache", ICML 2024, arXiv 2402.02750.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ._arrays import Array, accepts_arrays
from ._einkorn import kivi as _kivi

__all__ = [
    "CacheState",
    "KiviCache",
    "PackedGroups",
    "memory",
    "pack_bits",
    "qgemv_outer",
    "quantize_pack",
    "unpack_bits",
    "unpack_dequantize",
]

_ops = torch.ops.einkorn


class PackedGroups(NamedTuple):
    """Codes of groups of numbers along the last axis: x ~ code * scale + minimum."""

    codes: torch.Tensor
    """int32 [..., size * bits / 32], code j in bits [j bits, (j + 1) bits) of the row."""
    scale: torch.Tensor
    """[..., size / group]"""
    minimum: torch.Tensor
    """[..., size / group]"""


class CacheState(NamedTuple):
    """How many tokens of a sequence lie where."""

    length: int
    keys_quantized: int
    keys_residual: int
    values_quantized: int
    values_residual: int


@accepts_arrays("x")
def quantize_pack(x: Array, axis: int = -1, *, bits: int = 2, group: int = 32) -> PackedGroups:
    """Quantises groups along ``axis`` (-1, or -2, which is moved to the end first).

    Parameters
    ----------
    x : float16, bfloat16 or float32, any strides
    axis : -1 for values [..., T, D], -2 for keys [..., T, D] -> codes [..., D, T * bits / 32]
    bits : 1, 2, 3, 4 or 8
    group : 32, 64 or 128, a divisor of the axis

    scale = (max - min) / (2^bits - 1) in the dtype of x; code = round((x - min) / scale). A group
    with a NaN or an infinity is NaN.
    """
    return PackedGroups(*_ops.kivi_quantize_pack(x, axis, bits, group))


@accepts_arrays("codes", "scale", "minimum")
def unpack_dequantize(
    codes: Array,
    scale: Array,
    minimum: Array,
    axis: int = -1,
    *,
    bits: int = 2,
    group: int = 32,
) -> Array:
    """code * scale + minimum, in the shape that ``x`` of :func:`quantize_pack` had."""
    return _ops.kivi_unpack_dequantize(codes, scale, minimum, axis, bits, group)


@accepts_arrays("a", "codes", "scale", "minimum")
def qgemv_outer(
    a: Array, codes: Array, scale: Array, minimum: Array, *, bits: int = 2, group: int = 32
) -> Array:
    """``a`` [..., M, IC] times the dequantised matrix [..., IC, OC] that is packed along OC."""
    return _ops.kivi_qgemv_outer(a, codes, scale, minimum, bits, group)


@accepts_arrays("codes")
def pack_bits(codes: Array, bits: int) -> Array:
    """Rows of uint8 codes to gap-free bytes: code i is bits [i bits, (i + 1) bits), 1 to 8 bits."""
    return _kivi.pack_bits(codes, bits)


@accepts_arrays("packed")
def unpack_bits(packed: Array, bits: int, count: int) -> Array:
    """The inverse of :func:`pack_bits`: ``count`` codes a row."""
    return _kivi.unpack_bits(packed, bits, count)


def _fields(**fields: int | None) -> dict:
    bits = fields.pop("bits")
    for name in ("key_bits", "value_bits"):
        if fields[name] is None:
            fields[name] = bits
    return fields


def memory(
    tokens: int,
    *,
    layers: int = 1,
    batch: int = 1,
    kv_heads: int = 1,
    head_dim: int = 128,
    bits: int = 2,
    key_bits: int | None = None,
    value_bits: int | None = None,
    group: int = 32,
    residual: int = 128,
    dtype: torch.dtype = torch.float16,
) -> dict[str, int]:
    """The bytes of a cache that holds ``tokens`` a sequence, without making it.

    ``bytes`` = ``quantized`` + ``residual``; ``reserved`` is what whole pages take; ``dense`` is a
    plain cache of the same dtype.
    """
    fields = _fields(
        layers=layers,
        batch=batch,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_length=0,
        bits=bits,
        key_bits=key_bits,
        value_bits=value_bits,
        group=group,
        residual=residual,
    )
    return _kivi.memory_of(fields, dtype, tokens)


class KiviCache:
    """A quantised key-value cache of all layers of a decoder.

    Parameters
    ----------
    layers, batch, kv_heads, head_dim : sizes; head_dim is a multiple of group, at most 256
    max_length : tokens that a sequence may reach; 0 for no limit
    bits, key_bits, value_bits : 1, 2, 3, 4 or 8
    group : numbers that share a scale: 32, 64 or 128
    residual : newest tokens that stay as they are, a multiple of group
    dtype : float16, bfloat16 or float32 (float32 on the CPU alone)
    device : "cpu" or "cuda"

    Tokens lie in pages of 128, allocated as needed and never copied. ``append`` and ``attend``
    never wait for a CUDA device. Rotary positions are applied before keys come here.
    """

    def __init__(
        self,
        *,
        layers: int = 1,
        batch: int = 1,
        kv_heads: int = 1,
        head_dim: int = 128,
        max_length: int = 0,
        bits: int = 2,
        key_bits: int | None = None,
        value_bits: int | None = None,
        group: int = 32,
        residual: int = 128,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
    ):
        fields = _fields(
            layers=layers,
            batch=batch,
            kv_heads=kv_heads,
            head_dim=head_dim,
            max_length=max_length,
            bits=bits,
            key_bits=key_bits,
            value_bits=value_bits,
            group=group,
            residual=residual,
        )
        self._cache = _kivi.Cache(fields, dtype, torch.device(device))

    @classmethod
    def load(cls, path: str | os.PathLike, device: torch.device | str = "cpu") -> "KiviCache":
        """Reads what :meth:`save` wrote. Raises OSError for a file that does not fit."""
        self = cls.__new__(cls)
        self._cache = _kivi.load(os.fspath(path), torch.device(device))
        return self

    def save(self, path: str | os.PathLike, *, force: bool = False) -> None:
        """Writes a safetensors file in the published packing."""
        self._cache.save(os.fspath(path), force)

    @property
    def batch(self) -> int:
        return self._cache.batch()

    @property
    def dtype(self) -> torch.dtype:
        return self._cache.dtype()

    @property
    def device(self) -> torch.device:
        return self._cache.device()

    @property
    def options(self) -> dict[str, int]:
        return self._cache.options()

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"KiviCache({options}, dtype={self.dtype}, device='{self.device}')"

    def prefill(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        lengths: Sequence[int] | torch.Tensor | None = None,
    ) -> None:
        """Appends a prompt, or its next piece, [batch, kv_heads, T, D], and quantises all of it but
        the residual. ``lengths``: how many of the T tokens count in each sequence, the first ones.
        """
        self._cache.prefill(layer, keys, values, _as_list(lengths))

    def append(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        lengths: Sequence[int] | torch.Tensor | None = None,
    ) -> None:
        """Appends the tokens of a decode step, after the flushes that the last step left due."""
        self._cache.append(layer, keys, values, _as_list(lengths))

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> None:
        """:meth:`prefill` into empty sequences, else :meth:`append`."""
        empty = all(self.state(layer, b).length == 0 for b in range(self.batch))
        (self.prefill if empty else self.append)(layer, keys, values)

    def settle(self, layer: int) -> None:
        """Does the flushes that are due now rather than at the next append."""
        self._cache.settle(layer)

    def attend(
        self,
        layer: int,
        queries: torch.Tensor,
        *,
        scale: float | None = None,
        causal: bool = True,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """softmax(scale q k^T + mask) v for queries [batch, heads, m, D].

        ``heads`` is a multiple of ``kv_heads``. ``scale`` is 1 / sqrt(D) by default. With several
        query tokens the last one is the newest and, if ``causal``, none looks ahead. ``mask``
        (bool: True counts; floating: added) broadcasts to [batch, heads, m, greatest length].
        """
        return self._cache.attend(layer, queries, scale, causal, mask)

    def dequantize(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as ``attend`` sees them, zeros behind shorter sequences."""
        return self._cache.dequantize(layer)

    def state(self, layer: int = 0, sequence: int = 0) -> CacheState:
        return CacheState(*self._cache.state(layer, sequence))

    def memory(self) -> dict[str, int]:
        """``bytes`` = ``quantized`` + ``residual``; ``reserved``; ``dense``: of a plain cache."""
        return self._cache.memory()

    def trim(self, length: int | Sequence[int]) -> int:
        """Forgets the tokens from ``length`` on in all layers; returns how many tokens were turned
        from quantised back to residual (0: the trim was exact)."""
        lengths = [length] * self.batch if isinstance(length, int) else list(length)
        return self._cache.trim(lengths)

    def fork(self, indices: Sequence[int] | torch.Tensor) -> None:
        """Sequence i goes on from the old sequence indices[i]; pages are shared until written."""
        self._cache.fork(_as_list(indices))

    def reserve(self, length: int) -> None:
        """Allocates for ``length`` tokens of every sequence, as CUDA graphs need."""
        self._cache.reserve(length)

    def capture_replayed(self, layer: int, tokens: int = 1) -> None:
        """Tells the host that a captured graph with one append to this layer ran again."""
        self._cache.capture_replayed(layer, tokens)

    def pack(self, layer: int, sequence: int) -> dict[str, object]:
        """One sequence in the published packing: ``keys`` and ``values`` are
        :class:`PackedGroups`, ``key_residual`` and ``value_residual`` tensors."""
        fields = self._cache.pack(layer, sequence)
        for name in ("keys", "values"):
            fields[name] = PackedGroups(*fields[name])
        return fields

    def unpack(self, layer: int, sequence: int, packed: dict[str, object]) -> None:
        """The inverse of :meth:`pack`, into an empty sequence."""
        self._cache.unpack(layer, sequence, packed)


def _as_list(values: Sequence[int] | torch.Tensor | None) -> list[int]:
    if values is None:
        return []
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)
