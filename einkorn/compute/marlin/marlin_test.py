"""The Python face of marlin, and its agreement with the command and torch's operators."""

import copy
import pickle

import numpy as np
import pytest
import torch

from einkorn import jobs, marlin

ops = torch.ops.einkorn


def exact(x: torch.Tensor, weights: marlin.QuantizedWeights) -> torch.Tensor:
    return x.double() @ weights.dequantize(torch.float64)


def arguments(p: marlin.PreparedWeights) -> tuple[list, dict]:
    tensors = [p.words, p.scales, p.zero_points, p.order, p.bias]
    return tensors, {"bits": p.bits, "group_size": p.group_size, "outputs": p.outputs}


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return marlin.quantize_rtn(torch.randn(200, 70), group_size=64, symmetric=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_product_agrees_with_dense(weights, dtype):
    x = torch.randn(3, 5, 200).to(dtype)
    y = marlin.matmul(x, marlin.prepare(weights))
    assert y.dtype == dtype and y.shape == (3, 5, 70)
    reference = exact(x, weights)
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(dtype, 1e-5)
    assert (y.double() - reference).norm() < tolerance * reference.norm()


def test_numpy_arrays_come_back_as_numpy(weights):
    x = np.random.default_rng(0).normal(size=(4, 200)).astype(np.float32)
    y = marlin.matmul(x, marlin.prepare(weights))
    assert isinstance(y, np.ndarray) and y.dtype == np.float32
    codes = np.arange(64, dtype=np.uint8).reshape(16, 4) % 16
    words = marlin.pack_codes(codes)
    assert words.shape == (1, 128)
    np.testing.assert_array_equal(marlin.unpack_codes(words, 16, 4), codes)


def test_operator_passes_opcheck(weights):
    tensors, options = arguments(marlin.prepare(weights))
    x = torch.randn(2, 200, requires_grad=True)
    torch.library.opcheck(ops.marlin_matmul, (x, *tensors), options)


def test_gradients_are_those_of_the_dense_product():
    torch.manual_seed(1)
    found = marlin.gptq_quantize(
        torch.randn(40, 12), torch.randn(60, 40), group_size=32, symmetric=False, act_order=True
    )
    prepared = marlin.prepare(found.weights)
    x = torch.randn(3, 40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: marlin.matmul(a, prepared), (x,))
    assert torch.autograd.gradgradcheck(lambda a: marlin.matmul(a, prepared), (x,))


def test_half_gradients_have_the_dtype_of_their_input(weights):
    x = torch.randn(3, 200).half().requires_grad_()
    marlin.matmul(x, marlin.prepare(weights)).sum().backward()
    reference = weights.dequantize(torch.float64).sum(1).expand(3, 200)
    assert x.grad.dtype == torch.float16
    torch.testing.assert_close(x.grad.double(), reference, rtol=2e-3, atol=2e-3)


def test_layer_saves_loads_moves_and_copies(tmp_path):
    torch.manual_seed(2)
    linear = torch.nn.Linear(130, 40)
    layer = marlin.QuantLinear.from_linear(linear, group_size=32)
    x = torch.randn(6, 130)
    y = layer(x)
    assert (y - linear(x)).norm() < 0.15 * linear(x).norm()
    layer.save(tmp_path / "layer.safetensors")
    assert torch.equal(marlin.QuantLinear.load(tmp_path / "layer.safetensors")(x), y)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer.state_dict()))["B"], layer.B)
    other = marlin.QuantLinear.from_linear(torch.nn.Linear(130, 40), group_size=32)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), y)
    layer.half()
    assert layer.s.dtype == torch.float16 and layer.bias.dtype == torch.float32
    assert layer(x.half()).dtype == torch.float16
    with pytest.raises(OSError, match="safetensors"):
        layer.save(tmp_path / "layer.safetensors")
    assert "group_size=32" in repr(layer)


def test_sparse_layer_prunes():
    torch.manual_seed(3)
    layer = marlin.QuantLinear.from_linear(torch.nn.Linear(64, 64, bias=False), sparse=True)
    dense = layer.weights().dequantize(torch.float32)
    assert (dense.reshape(16, 4, 64) != 0).sum(1).max() <= 2
    x = torch.randn(2, 64)
    torch.testing.assert_close(layer(x), x @ dense, rtol=1e-4, atol=1e-4)


def test_int8_activations_are_close(weights):
    x = torch.randn(4, 200)
    prepared = marlin.prepare(weights)
    rounded = marlin.matmul(x, prepared, int8_activations=True)
    reference = marlin.matmul(x, prepared)
    error = (rounded - reference).norm() / reference.norm()
    assert 0 < error < 0.02


def test_errors_are_value_errors(weights):
    with pytest.raises(ValueError, match="200 features"):
        marlin.matmul(torch.zeros(1, 3), marlin.prepare(weights))
    with pytest.raises(ValueError, match="expected either calibration or hessian"):
        marlin.gptq_quantize(torch.zeros(32, 4))
    with pytest.raises(OSError):
        marlin.load("/nonexistent.safetensors")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError):
            marlin.prepare(weights, "cuda")


def test_three_faces_agree(tmp_path):
    torch.manual_seed(4)
    w = torch.randn(256, 96)
    a = torch.randn(5, 256)
    np.save(tmp_path / "W.npy", w.numpy())
    np.save(tmp_path / "A.npy", a.numpy())
    q, c = tmp_path / "Q.safetensors", tmp_path / "C.npy"
    report = jobs.run("marlin", "quantize", **{"in": str(tmp_path / "W.npy"), "out": str(q)})
    mine = marlin.quantize_rtn(w)
    result = report["result"]
    assert result["relative_error"] == marlin.relative_error(w, mine)
    assert result["bytes"] == mine.nbytes
    assert torch.equal(marlin.load(q).B, mine.B)
    jobs.run(
        "marlin", "matmul", **{"weights": str(q), "in": str(tmp_path / "A.npy"), "out": str(c)}
    )
    prepared = marlin.prepare(mine)
    found = torch.from_numpy(np.load(c))
    assert torch.equal(found, marlin.matmul(a, prepared))
    tensors, options = arguments(prepared)
    assert torch.equal(found, ops.marlin_matmul(a, *tensors, **options))
    inspected = jobs.run("marlin", "inspect", file=str(q), against=str(tmp_path / "W.npy"))
    assert inspected["result"]["relative_error"] == result["relative_error"]
    dense = tmp_path / "dense.npy"
    jobs.run(
        "marlin", "convert", **{"in": str(q), "out": str(dense), "from": "einkorn", "to": "dense"}
    )
    np.testing.assert_array_equal(np.load(dense), mine.dequantize(torch.float32).numpy())
