"""Few activations times many 4- or 8-bit weights.

``quantize_rtn`` and ``gptq_quantize`` turn a weight matrix W [K, N] into codes and scales in the
MARLIN format; ``prepare`` arranges them for a device once; ``matmul`` multiplies. ``QuantLinear``
is the layer. Weights are constants: gradients reach the activations alone.

Frantar, Castro, Chen, Hoefler, Alistarh, "MARLIN: Mixed-Precision Auto-Regressive Parallel
Inference on Large Language Models", 2024, arXiv 2408.11743.
"""

import os
from typing import NamedTuple

import torch

from ._arrays import Array, accepts_arrays
from ._einkorn import marlin as _marlin

__all__ = [
    "GptqResult",
    "PreparedWeights",
    "QuantLinear",
    "QuantizedWeights",
    "from_awq",
    "from_codes",
    "from_gptq",
    "from_official",
    "from_official_2_4",
    "gptq_quantize",
    "load",
    "matmul",
    "mul",
    "mul_2_4",
    "pack_codes",
    "prepare",
    "prune_mask_2_4",
    "quantize",
    "quantize_rtn",
    "relative_error",
    "save",
    "unpack_codes",
]

QuantizedWeights = _marlin.QuantizedWeights
"""Quantised weights at rest: ``inputs``, ``outputs``, ``bits``, ``group_size``, the tensors ``B``,
``s``, ``zero_points``, ``meta``, ``order``, ``bias`` (None where there is none), ``nbytes``, and
``codes()``, ``scales()``, ``dequantize(dtype)``, ``to(device)``, ``with_bias(bias)``."""

PreparedWeights = _marlin.PreparedWeights
"""Weights as a device's kernels read them; made by :func:`prepare`."""


class GptqResult(NamedTuple):
    weights: QuantizedWeights
    loss: float
    """sum (w - q)^2 / U_ii^2 / 2."""
    factored: bool
    """False where the Hessian was not positive definite and weights were rounded to nearest."""


@accepts_arrays("codes")
def pack_codes(codes: Array, bits: int = 4, padding: int = 8) -> Array:
    """Codes [K, N] uint8 as int32 words: [K/16, 2 N] in 4 bits, [K/16, 4 N] in 8.

    K is filled up to a multiple of 16 and N to one of 64 with ``padding``.
    """
    return _marlin.pack_codes(codes, bits, padding)


@accepts_arrays("words")
def unpack_codes(words: Array, rows: int, columns: int, bits: int = 4) -> Array:
    """The inverse of :func:`pack_codes`."""
    return _marlin.unpack_codes(words, bits, rows, columns)


@accepts_arrays("weights")
def prune_mask_2_4(weights: Array) -> Array:
    """True for the two largest magnitudes of every four successive rows of a column."""
    return _marlin.prune_mask_2_4(weights)


def from_codes(
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    bits: int = 4,
    group_size: int = 128,
    zero_points: torch.Tensor | None = None,
    order: torch.Tensor | None = None,
    keep: torch.Tensor | None = None,
) -> QuantizedWeights:
    """Weights from codes [K, N] uint8 and scales [groups, N] float16 or bfloat16 in plain order.

    ``zero_points`` uint8 [groups, N]; ``order`` int64 [K], the input that each row multiplies;
    ``keep`` bool [K, N] for 2:4 sparse weights.
    """
    return _marlin.from_codes(codes, scales, bits, group_size, zero_points, order, keep)


@accepts_arrays("weights")
def quantize_rtn(
    weights: Array,
    *,
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    sparse: bool = False,
    clip_search: bool = False,
    scale_dtype: torch.dtype = torch.float16,
) -> QuantizedWeights:
    """Rounds W [K, N] to nearest. ``group_size`` 32, 64, 128, or -1 for all rows.

    ``symmetric=False`` gives each scale a zero point; ``sparse`` keeps two of four successive rows;
    ``clip_search`` tries smaller ranges and keeps the one of least error.
    """
    return _marlin.quantize_rtn(
        weights, bits, group_size, symmetric, sparse, clip_search, scale_dtype
    )


@accepts_arrays("weights", "calibration", "hessian")
def gptq_quantize(
    weights: Array,
    calibration: Array | None = None,
    *,
    hessian: Array | None = None,
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    sparse: bool = False,
    clip_search: bool = True,
    scale_dtype: torch.dtype = torch.float16,
    damping: float = 0.1,
    act_order: bool = False,
) -> GptqResult:
    """GPTQ: rows of W [K, N] in turn, each error spread over the rows to come.

    Either ``calibration``, inputs [n, K], or ``hessian`` [K, K] = (2/n) sum x x'.
    """
    if (calibration is None) == (hessian is None):
        raise ValueError("gptq_quantize: expected either calibration or hessian")
    found = _marlin.gptq_quantize(
        weights,
        hessian if calibration is None else calibration,
        calibration is None,
        bits,
        group_size,
        symmetric,
        sparse,
        clip_search,
        scale_dtype,
        damping,
        act_order,
    )
    return GptqResult(*found)


def quantize(
    weights: Array, *, calibration: Array | None = None, **options: object
) -> QuantizedWeights:
    """:func:`gptq_quantize` where ``calibration`` is given, else :func:`quantize_rtn`."""
    if calibration is None:
        return quantize_rtn(weights, **options)
    return gptq_quantize(weights, calibration, **options).weights


@accepts_arrays("weights")
def relative_error(weights: Array, quantized: QuantizedWeights) -> float:
    """Frobenius norm of W minus the dequantised weights, over that of W."""
    return _marlin.relative_error(weights, quantized)


def from_gptq(
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    g_idx: torch.Tensor | None = None,
    *,
    bits: int = 4,
    zero_offset: int = 1,
) -> QuantizedWeights:
    """From AutoGPTQ's tensors. ``zero_offset`` 1: zeros are stored minus one (GPTQ v2: 0)."""
    return _marlin.from_gptq(qweight, qzeros, scales, g_idx, bits, zero_offset)


def from_awq(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> QuantizedWeights:
    """From AutoAWQ's tensors (4 bits)."""
    return _marlin.from_awq(qweight, qzeros, scales)


def from_official(B: torch.Tensor, s: torch.Tensor, bits: int = 4) -> QuantizedWeights:
    """From the official layer's tensors."""
    return _marlin.from_official(B, s, bits)


def from_official_2_4(
    B: torch.Tensor, meta: torch.Tensor, s: torch.Tensor, bits: int = 4
) -> QuantizedWeights:
    """From the official 2:4 sparse layer's tensors."""
    return _marlin.from_official_2_4(B, meta, s, bits)


def save(
    path: str | os.PathLike, weights: QuantizedWeights, *, prefix: str = "", force: bool = False
) -> None:
    """Writes safetensors; an existing file is kept unless ``force``."""
    weights.save(os.fspath(path), force, prefix)


def load(path: str | os.PathLike, *, prefix: str = "") -> QuantizedWeights:
    """Reads what :func:`save` or ``einkorn marlin quantize`` wrote; OSError for other files."""
    return _marlin.load(os.fspath(path), prefix)


def prepare(weights: QuantizedWeights, device: str | torch.device = "cpu") -> PreparedWeights:
    """Arranges weights for the kernels of a device: once, before many products."""
    return _marlin.prepare(weights, torch.device(device))


@accepts_arrays("activations")
def matmul(
    activations: Array, weights: PreparedWeights, *, int8_activations: bool = False
) -> Array:
    """activations [.., K] times W [K, N], in the dtype of the activations, summed in f32.

    float16 or bfloat16, on the CPU also float32 and float64. ``int8_activations`` rounds them to 8
    bits for each row and group (CPU). A row with a number that is not finite has no finite results.
    """
    return _marlin.matmul(activations, weights, int8_activations)


def mul(A: torch.Tensor, B: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """The official call; arranges the weights each time."""
    return _marlin.mul(A, B, s)


def mul_2_4(A: torch.Tensor, B: torch.Tensor, meta: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """The official call for 2:4 sparse weights; arranges them each time."""
    return _marlin.mul_2_4(A, B, meta, s)


_PARTS = ("B", "s", "zero_points", "meta", "order", "bias")


class QuantLinear(torch.nn.Module):
    """A linear layer whose weights are quantised constants.

    Its buffers (B, s and where there are any zero_points, meta, order, bias) are those of the file
    format, so ``state_dict`` is what official tools read. They keep their dtypes when the module is
    converted (``half()``, ``to(dtype)``); activations may have any dtype that :func:`matmul` takes.
    """

    def __init__(self, weights: QuantizedWeights, *, int8_activations: bool = False):
        super().__init__()
        self.in_features = weights.inputs
        self.out_features = weights.outputs
        self.bits = weights.bits
        self.group_size = weights.group_size
        self.int8_activations = int8_activations
        for name in _PARTS:
            self.register_buffer(name, getattr(weights, name))
        self._prepared = None
        self._prepared_from = None

    @classmethod
    def from_linear(
        cls, linear: torch.nn.Linear, calibration: torch.Tensor | None = None, **options: object
    ) -> "QuantLinear":
        """Quantises a linear layer: to nearest, or by GPTQ where ``calibration`` is given."""
        weights = quantize(linear.weight.detach().t(), calibration=calibration, **options)
        if linear.bias is not None:
            weights = weights.with_bias(linear.bias.detach().cpu().float())
        return cls(weights.to(linear.weight.device))

    @classmethod
    def load(cls, path: str | os.PathLike, *, prefix: str = "") -> "QuantLinear":
        """From a file of :func:`save` or ``einkorn marlin quantize``."""
        return cls(load(path, prefix=prefix))

    def save(self, path: str | os.PathLike, *, prefix: str = "", force: bool = False) -> None:
        """Writes the weights as :func:`save` does."""
        save(path, self.weights(), prefix=prefix, force=force)

    def weights(self) -> QuantizedWeights:
        """The buffers as weights."""
        return QuantizedWeights(
            self.in_features,
            self.out_features,
            self.bits,
            self.group_size,
            *(getattr(self, name) for name in _PARTS),
        )

    def _apply(self, fn, recurse=True):
        """Moves buffers, but keeps the dtypes that the format prescribes."""
        kept = {n: b.dtype for n in _PARTS if (b := getattr(self, n)) is not None}
        originals = {n: getattr(self, n) for n in kept}
        super()._apply(fn, recurse)
        for name, dtype in kept.items():
            moved = getattr(self, name)
            if moved.dtype != dtype:
                setattr(self, name, originals[name].to(moved.device))
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        buffers = [b for b in (getattr(self, n) for n in _PARTS) if b is not None]
        state = [(b.data_ptr(), b._version, b.device) for b in buffers]
        if state != self._prepared_from:
            self._prepared = prepare(self.weights(), self.B.device)
            self._prepared_from = state
        return matmul(x, self._prepared, int8_activations=self.int8_activations)

    def __getstate__(self):
        """Arranged weights are made again after copying or unpickling."""
        state = self.__dict__.copy()
        state["_prepared"] = state["_prepared_from"] = None
        return state

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, "
            f"group_size={self.group_size}, sparse={self.meta is not None}"
        )
