"""The Python face of flashrnn: against torch.nn, operators, the command."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch

from einkorn import flashrnn

COMMAND = os.path.join(os.environ["EINKORN_BUILD"], "einkorn")
SHAPES = {
    "lstm": (4, 4, 4, 2),
    "gru": (3, 3, 4, 1),
    "elman": (1, 1, 1, 1),
    "slstm": (4, 4, 4, 4),
}


def example(cell, batch=2, time=4, heads=2, dim=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    recurrent_gates, input_gates, biases, states = SHAPES[cell]

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    initial = 0.3 * draw(states, batch, heads, dim)
    if cell == "slstm":
        initial[2] = initial[2].abs() + 1
    return (
        draw(batch, time, input_gates, heads, dim),
        draw(recurrent_gates, heads, dim, dim) / dim**0.5,
        draw(biases, heads, dim),
        initial,
    )


@pytest.mark.parametrize("cell", flashrnn.CELLS)
def test_gradcheck(cell):
    wx, recurrent, bias, initial = example(cell)
    # The start of slstm's m scales c and n, of which it is taken as independent.
    stabiliser = initial[3:]
    inputs = [tensor.clone().requires_grad_() for tensor in (wx, recurrent, bias, initial[:3])]
    lengths = torch.tensor([4, 2])

    def hidden(wx, recurrent, bias, initial):
        initial = torch.cat([initial, stabiliser])
        found = flashrnn.rnn(wx, recurrent, bias, initial, lengths, cell=cell)
        return found.states[0], found.last[0]

    assert torch.autograd.gradcheck(hidden, inputs)


TORCH = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}


@pytest.mark.parametrize("cell", TORCH)
@pytest.mark.parametrize(
    "layers, bidirectional, bias", [(1, False, True), (2, True, True), (2, False, False)]
)
def test_layer_is_torchs(cell, layers, bidirectional, bias):
    torch.manual_seed(3)
    module = TORCH[cell](
        5, 7, num_layers=layers, bidirectional=bidirectional, bias=bias, batch_first=True
    )
    layer = flashrnn.RNN.from_torch(module)
    x = torch.randn(3, 6, 5)
    expected, last = module(x)
    found = layer(x)
    torch.testing.assert_close(found.output, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found.last[0], last[0] if cell == "lstm" else last, rtol=1e-5, atol=1e-5
    )
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found.output * weights).sum().backward()
    for direction in layer._ends(0):
        torch.testing.assert_close(
            getattr(layer, f"weight_ih{direction}").grad,
            getattr(module, f"weight_ih{direction}").grad,
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("cell", TORCH)
def test_lengths_are_torchs_packed_sequences(cell):
    torch.manual_seed(4)
    module = TORCH[cell](4, 6, num_layers=2, bidirectional=True, batch_first=True)
    layer = flashrnn.RNN.from_torch(module)
    lengths = torch.tensor([5, 2, 4])
    x = torch.randn(3, 5, 4)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x, lengths, batch_first=True, enforce_sorted=False
    )
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)
    torch.testing.assert_close(layer(x, lengths=lengths).output, expected, rtol=1e-5, atol=1e-5)


def test_layer_options():
    layer = flashrnn.RNN(5, 8, cell="slstm", heads=2, layers=2, projection=3, dropout=0.5)
    x = torch.randn(2, 4, 5)
    first, second = layer(x), layer(x)
    assert first.output.shape == (2, 4, 3)
    assert first.last.shape == (4, 2, 2, 8)
    assert not torch.equal(first.output, second.output)
    layer.eval()
    whole = layer(x)
    assert torch.equal(whole.output, layer(x).output)
    state = layer(x[:, :2]).last
    torch.testing.assert_close(layer(x[:, 2:], state).output, whole.output[:, 2:])
    for bad in ({"heads": 3}, {"dropout": 1.0}, {"layers": 0}, {"reverse": True}):
        with pytest.raises(ValueError):
            flashrnn.RNN(5, 8, **bad)
    with pytest.raises(ValueError, match="input: shape"):
        layer(x[0])
    with pytest.raises(ValueError, match="from_torch"):
        flashrnn.RNN.from_torch(torch.nn.LSTM(4, 6, proj_size=2))


def test_operator_passes_opcheck():
    for cell in flashrnn.CELLS:
        wx, recurrent, bias, initial = example(cell, dtype=torch.float32)
        arguments = (wx.requires_grad_(), recurrent.requires_grad_(), bias, initial)
        torch.library.opcheck(
            torch.ops.einkorn.flashrnn.default,
            arguments,
            {"cell": cell},
            test_utils=("test_schema", "test_faketensor"),
        )


def test_numpy_in_numpy_out():
    wx, recurrent, bias, initial = (tensor.numpy() for tensor in example("gru"))
    found = flashrnn.rnn(wx, recurrent, bias, initial, cell="gru")
    assert isinstance(found.states, np.ndarray)
    expected = flashrnn.rnn(*example("gru"), cell="gru", backend="reference")
    np.testing.assert_allclose(found.states, expected.states.numpy(), rtol=1e-12)


def test_step_and_errors():
    wx, recurrent, bias, initial = example("lstm")
    step = flashrnn.rnn_step(wx[:, 0], recurrent, bias, initial)
    torch.testing.assert_close(step, flashrnn.rnn(wx[:, :1], recurrent, bias, initial).last)
    with pytest.raises(ValueError, match="did you mean 'lstm'"):
        flashrnn.rnn(wx, recurrent, bias, cell="lstn")
    with pytest.raises(ValueError, match="recurrent: shape"):
        flashrnn.rnn(wx, recurrent[0], bias)


def test_constraints():
    problem = flashrnn.ConstraintProblem("x*y == 24; x <= 6; x % 2 == 0")
    assert problem.propagate()["y"].values == [4, 6, 12]
    found = problem.solve({"x": "max"}, count=10)
    assert [s["x"] for s in found.solutions] == [6, 4, 2] and found.exhausted
    assert all(problem.holds(s) for s in found.solutions)
    assert problem.solve(count=1, exclude=[{"x": 2}]).solutions == [{"x": 4, "y": 6}]
    with pytest.raises(OSError, match="line 1, column 3"):
        flashrnn.ConstraintProblem("a >= 3")
    kernel, order, text = flashrnn.kernel_problem("backward", dim=64, heads=12)
    assert "MTC" in text
    assert kernel.solve(order).solutions[0]["WTCG"] == 8


# ---- the command ----


def command(*arguments, check=True):
    done = subprocess.run(
        [COMMAND, "flashrnn", *arguments], capture_output=True, text=True, timeout=300
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_solve_command(tmp_path):
    path = tmp_path / "tiles.csp"
    path.write_text("768 % a == 0; 768 % b == 0; a*b <= 132; a <= 64; 4 <= b\n")
    done = command("solve", str(path), "--order", "a:max,b:max", "-n", "5", "--json")
    result = json.loads(done.stdout)["result"]
    assert result["solutions"] == ["a=32, b=4", "a=24, b=4", "a=16, b=8", "a=16, b=6", "a=16, b=4"]
    assert not result["exhausted"]
    path.write_text("a >= 3")
    bad = command("solve", str(path), check=False)
    assert bad.returncode == 2 and len(bad.stderr.strip().splitlines()) == 1
    assert "line 1, column 3" in bad.stderr


def test_run_command_agrees_with_python(tmp_path):
    wx, recurrent, bias, initial = example("gru", dtype=torch.float32)
    names = {"input": wx, "recurrent": recurrent, "bias": bias, "initial": initial}
    arguments = []
    for name, tensor in names.items():
        np.save(tmp_path / f"{name}.npy", tensor.numpy())
        arguments += [f"--{name}", str(tmp_path / f"{name}.npy")]
    out = tmp_path / "out.npy"
    command("run", *arguments, "--cell", "gru", "--out", str(out))
    expected = flashrnn.rnn(wx, recurrent, bias, initial, cell="gru").states
    np.testing.assert_array_equal(np.load(out), expected.numpy())
    bad = command("run", *arguments, "--cell", "lstm", check=False)
    assert bad.returncode == 2 and "input: shape" in bad.stderr


def test_tune_command():
    done = command("tune", "--dim", "64", "--heads", "12", "--json")
    result = json.loads(done.stdout)["result"]
    assert "MTC=12" in result["forward"][0] and "CACHED=2" in result["backward"][0]


def test_train_command_agrees_with_python():
    done = command("train", "--task", "parity", "--cell", "lstm", "--steps", "20", "--json")
    result = json.loads(done.stdout)["result"]
    assert 0 <= result["accuracy"] <= 1
    accuracy, losses = flashrnn.train_parity("lstm", steps=20)
    assert accuracy == pytest.approx(result["accuracy"], abs=1e-3)
    assert losses[-1] == pytest.approx(result["loss"], rel=1e-4)
