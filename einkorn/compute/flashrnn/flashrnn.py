"""Recurrent networks with a state: LSTM, GRU, Elman and sLSTM, all steps in one kernel.

``rnn`` is the recurrence on gates that are already multiplied by the input matrix; ``RNN`` is a
layer with input projections, several layers, both directions, dropout and sequences of different
lengths, and takes the weights of ``torch.nn.LSTM``, ``GRU`` and ``RNN``. ``ConstraintProblem``
solves constraints on positive integers, with which the paper finds tile sizes.

Poeppel, Beck, Hochreiter, "FlashRNN: Optimizing Traditional RNNs on Modern Hardware",
arXiv 2412.07752.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ._arrays import Array, accepts_arrays
from ._einkorn import flashrnn as _flashrnn

__all__ = [
    "RNN",
    "ConstraintProblem",
    "Domain",
    "RNNOutput",
    "Solutions",
    "States",
    "kernel_problem",
    "rnn",
    "rnn_step",
    "train_parity",
]

CELLS = ("lstm", "gru", "elman", "slstm")


class States(NamedTuple):
    """What a recurrence returns."""

    states: torch.Tensor
    """[S, B, T, N, D], h first; zero behind a sequence's end."""
    last: torch.Tensor
    """[S, B, N, D], after the last step of each sequence."""


@accepts_arrays("input", "recurrent", "bias", "initial", "lengths")
def rnn(
    input: Array,
    recurrent: Array,
    bias: Array,
    initial: Array | None = None,
    lengths: Array | None = None,
    *,
    cell: str = "lstm",
    backend: str = "auto",
    forward_clip: float | None = None,
    gradient_clip: float | None = None,
    gradient_cut: bool = False,
    reverse: bool = False,
    checkpoint_every: int = 0,
    state_dtype: torch.dtype | None = None,
) -> States:
    """The recurrence over gates that are already multiplied by the input matrix.

    Parameters
    ----------
    input : [B, T, G_w, N, D], float32, float64, bfloat16 or float16
        Gate orders: lstm and slstm i, f, z, o; gru r, z, n; elman one gate.
    recurrent : [G_r, N, D, D], as [gate, head, output, input]
        gru's order is g, r, z, where g is the recurrent part of n.
    bias : [G_t, N, D]
        gru's order is g, r, z, n.
    initial : [S, B, N, D], optional
        States at the start: lstm h, c; slstm h, c, n, m; gru and elman h. Default zeros.
    lengths : [B] integers, optional
        Steps of each sequence; behind its end the state stays, outputs are zero.
    cell : 'lstm', 'gru', 'elman' or 'slstm'
    backend : 'auto', 'cpu', 'gpu-fused', 'gpu-alternating' or 'reference'
    forward_clip, gradient_clip : float, optional
        Bounds of |h| after every step, and of the gradient that comes back through time into h.
    gradient_cut : bool
        No gradient through the product of R and h.
    reverse : bool
        From each sequence's last step to its first.
    checkpoint_every : int
        k > 0 keeps the states at every k-th step alone for the gradient, and computes the rest
        again.
    state_dtype : torch.dtype, optional
        float32 keeps the states of 16-bit tensors exact.

    Returns
    -------
    States(states, last); differentiable in input, recurrent, bias and initial.
    """
    return States(
        *torch.ops.einkorn.flashrnn(
            input,
            recurrent,
            bias,
            initial,
            lengths,
            cell=cell,
            backend=backend,
            forward_clip=forward_clip,
            gradient_clip=gradient_clip,
            gradient_cut=gradient_cut,
            reverse=reverse,
            checkpoint_every=checkpoint_every,
            state_dtype=state_dtype,
        )
    )


def rnn_step(
    input: torch.Tensor,
    recurrent: torch.Tensor,
    bias: torch.Tensor,
    states: torch.Tensor,
    *,
    cell: str = "lstm",
    **options: Any,
) -> torch.Tensor:
    """One step, for inference: input [B, G_w, N, D], states [S, B, N, D]; the next states."""
    return rnn(input.unsqueeze(1), recurrent, bias, states, cell=cell, **options).last


class RNNOutput(NamedTuple):
    """What a layer returns."""

    output: torch.Tensor
    """[B, T, directions * (projection or hidden_size)]; zero behind a sequence's end."""
    last: torch.Tensor
    """[S, layers * directions, B, hidden_size]."""


class RNN(torch.nn.Module):
    """A recurrent layer on [batch, time, input_size].

    Parameters
    ----------
    input_size, hidden_size : int
        hidden_size is a multiple of heads.
    cell : 'lstm', 'gru', 'elman' or 'slstm'
    heads : int
        R is block-diagonal in so many blocks.
    layers : int
    bidirectional : bool
    dropout : float
        Of each layer's output but the last, while training.
    projection : int
        If positive, each layer's output is a linear map of h to this size.
    device, dtype : of the parameters
    recurrence : further options of :func:`rnn` (backend, gradient_clip, checkpoint_every, ...)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        cell: str = "lstm",
        heads: int = 1,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        projection: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **recurrence: Any,
    ) -> None:
        super().__init__()
        self.shape = _flashrnn.shape_of(cell)
        if input_size < 1 or hidden_size < 1 or layers < 1 or projection < 0:
            raise ValueError("RNN: expected sizes and layers >= 1 and projection >= 0")
        if heads < 1 or hidden_size % heads:
            raise ValueError(f"heads: expected a divisor of hidden_size {hidden_size}, got {heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")
        if "reverse" in recurrence:
            raise ValueError("reverse: the layer sets it; use bidirectional")
        self.input_size, self.hidden_size, self.cell, self.heads = (
            input_size,
            hidden_size,
            cell,
            heads,
        )
        self.layers, self.bidirectional, self.dropout = layers, bidirectional, dropout
        self.projection, self.recurrence = projection, recurrence
        dim = hidden_size // heads
        place = {"device": device, "dtype": dtype}
        for layer in range(layers):
            inputs = input_size if layer == 0 else self.output_size
            for end in self._ends(layer):
                self._add(
                    f"weight_ih{end}", (self.shape["input_gates"] * hidden_size, inputs), place
                )
                self._add(
                    f"weight_hh{end}", (self.shape["recurrent_gates"], heads, dim, dim), place
                )
                self._add(f"bias{end}", (self.shape["biases"], heads, dim), place)
                if projection:
                    self._add(f"weight_hr{end}", (projection, hidden_size), place)
        self.reset_parameters()

    def _add(self, name: str, size: tuple[int, ...], place: dict[str, Any]) -> None:
        self.register_parameter(name, torch.nn.Parameter(torch.empty(size, **place)))

    def _ends(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: 2 if self.bidirectional else 1]

    @property
    def output_size(self) -> int:
        return (2 if self.bidirectional else 1) * (self.projection or self.hidden_size)

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(hidden_size), as torch's."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            torch.nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        input: torch.Tensor,
        initial: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
    ) -> RNNOutput:
        """input [B, T, input_size]; initial [S, layers * directions, B, hidden_size] or None."""
        if input.dim() != 3 or input.size(2) != self.input_size:
            raise ValueError(
                f"input: shape {list(input.shape)}, expected [batch, time, {self.input_size}]"
            )
        batch, time = input.shape[:2]
        dim = self.hidden_size // self.heads
        last = []
        for layer in range(self.layers):
            outputs = []
            for direction, end in enumerate(self._ends(layer)):
                gates = torch.nn.functional.linear(input, getattr(self, f"weight_ih{end}"))
                start = None
                if initial is not None:
                    start = initial[:, len(last)].reshape(
                        self.shape["states"], batch, self.heads, dim
                    )
                found = rnn(
                    gates.view(batch, time, self.shape["input_gates"], self.heads, dim),
                    getattr(self, f"weight_hh{end}"),
                    getattr(self, f"bias{end}"),
                    start,
                    lengths,
                    cell=self.cell,
                    reverse=direction == 1,
                    **self.recurrence,
                )
                output = found.states[0].reshape(batch, time, self.hidden_size)
                if self.projection:
                    output = torch.nn.functional.linear(
                        output.to(input.dtype), getattr(self, f"weight_hr{end}")
                    )
                outputs.append(output)
                last.append(found.last.reshape(self.shape["states"], batch, self.hidden_size))
            input = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
            if layer + 1 < self.layers:
                input = torch.nn.functional.dropout(
                    input.to(self.weight_ih_l0.dtype), self.dropout, self.training
                )
        return RNNOutput(input, torch.stack(last, 1))

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, cell={self.cell!r}, heads={self.heads}, "
            f"layers={self.layers}, bidirectional={self.bidirectional}"
        )

    @classmethod
    def from_torch(cls, module: torch.nn.Module, **recurrence: Any) -> "RNN":
        """A layer with the weights of a torch.nn.LSTM, GRU or RNN (tanh), on its device.

        The layer is batch-first whatever the module is. LSTMs with a projection feed that back and
        are refused.
        """
        cells = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "elman"}
        mode = getattr(module, "mode", type(module).__name__)
        if mode not in cells or getattr(module, "proj_size", 0):
            raise ValueError(
                "from_torch: expected a torch.nn.LSTM without proj_size, a GRU, or an RNN with tanh"
            )
        weight = module.weight_ih_l0
        layer = cls(
            module.input_size,
            module.hidden_size,
            cell=cells[mode],
            layers=module.num_layers,
            bidirectional=module.bidirectional,
            dropout=module.dropout,
            device=weight.device,
            dtype=weight.dtype,
            **recurrence,
        )
        hidden = module.hidden_size
        with torch.no_grad():
            for end in (end for index in range(layer.layers) for end in layer._ends(index)):
                getattr(layer, f"weight_ih{end}").copy_(getattr(module, f"weight_ih{end}"))
                back = getattr(module, f"weight_hh{end}").view(-1, hidden, hidden)
                if module.bias:
                    bias_ih = getattr(module, f"bias_ih{end}").view(-1, hidden)
                    bias_hh = getattr(module, f"bias_hh{end}").view(-1, hidden)
                else:
                    bias_ih = bias_hh = weight.new_zeros(back.size(0), hidden)
                bias = bias_ih + bias_hh
                if layer.cell == "gru":
                    # torch's rows are r, z, n; here n's recurrent part comes first.
                    back = back[[2, 0, 1]]
                    bias = torch.cat([bias_hh[2:], bias[:2], bias_ih[2:]])
                getattr(layer, f"weight_hh{end}").copy_(back.unsqueeze(1))
                getattr(layer, f"bias{end}").copy_(bias.unsqueeze(1))
        layer.train(module.training)
        return layer


# ---- constraints ----


class Domain(NamedTuple):
    """What propagation leaves to a variable."""

    lowest: int
    highest: int
    factor: int
    """Divides every value."""
    values: list[int] | None
    """All of them, or None where there are too many to list."""


class Solutions(NamedTuple):
    """What a search found."""

    solutions: list[dict[str, int]]
    exhausted: bool
    """There are no more."""


class ConstraintProblem:
    """Constraints on positive integers, such as ``"x*y == 24; x <= 6; x % 2 == 0"``.

    Relations: ``a == b``, ``a <= b``, ``a % b == 0``; ``;`` is "and", ``|`` is "or" and binds
    tighter; terms are sums of products of powers of integers, names, and lists ``[1,2,4]``, which
    stand for any one of their members; ``#`` begins a comment. Text that is no problem raises
    OSError with line and column.
    """

    def __init__(self, text: str) -> None:
        self._problem = _flashrnn.ConstraintProblem(text)

    @property
    def variables(self) -> list[str]:
        """In the order of their first appearance."""
        return self._problem.variables()

    def propagate(self) -> dict[str, Domain]:
        """What propagation alone leaves to each variable."""
        return {name: Domain(*rest) for name, *rest in self._problem.propagate()}

    def holds(self, values: Mapping[str, int]) -> bool:
        """Whether the values satisfy every constraint, by plain evaluation."""
        return self._problem.holds(dict(values))

    def solve(
        self,
        order: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        count: int = 1,
        exclude: Sequence[Mapping[str, int]] = (),
    ) -> Solutions:
        """The first `count` distinct solutions.

        order: variables in the order of choice, each with 'max' or 'min', the end to begin at;
        default all, smallest first. Solutions that hold all values of an entry of `exclude` are
        skipped.
        """
        pairs = list(order.items()) if isinstance(order, Mapping) else [tuple(o) for o in order]
        return Solutions(*self._problem.solve(pairs, count, [dict(entry) for entry in exclude]))


def kernel_problem(
    direction: str = "forward",
    *,
    dim: int = 768,
    heads: int = 1,
    batch: int = 16,
    gates: int = 4,
    element_bytes: int = 2,
) -> tuple[ConstraintProblem, list[tuple[str, str]], str]:
    """The published fused kernel's tile sizes on an H100: the problem, its order, its text."""
    text = _flashrnn.kernel_constraints(direction, dim, heads, batch, gates, element_bytes)
    return ConstraintProblem(text), _flashrnn.kernel_order(direction), text


def train_parity(
    cell: str = "lstm", *, steps: int = 800, test_length: int = 256, seed: int = 0
) -> tuple[float, list[float]]:
    """Trains a small network on running parity of 16 bits; accuracy on longer ones, and losses."""
    return _flashrnn.train_parity(cell, steps, test_length, seed)
