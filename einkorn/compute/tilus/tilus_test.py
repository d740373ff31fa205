"""The Python face of tilus, an independent look at its numbers, and the command."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch

from einkorn import tilus

COMMAND = os.path.join(os.environ["EINKORN_BUILD"], "einkorn")

ADD_ONE = """
program add_one(x: ptr f32, n: i32) warps 1 {
  grid (n + 31) / 32;
  g = global x[n];
  r = load g[block.x * 32], [32];
  r = add r, 1;
  store g[block.x * 32], r;
}
"""


def run(*words, cwd=None):
    done = subprocess.run(
        [COMMAND, "tilus", *words, "--json"], capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["result"]


def definition(code, exponent_bits, mantissa_bits):
    """A small float by its definition, without the exceptions."""
    bias = 2 ** (exponent_bits - 1) - 1
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    exponent = code >> mantissa_bits & (2**exponent_bits - 1)
    mantissa = code & (2**mantissa_bits - 1)
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent - bias)


@pytest.mark.parametrize("bits", range(3, 8))
def test_every_split_by_definition(bits):
    for exponent in range(1, bits - 1):
        name = f"f{bits}e{exponent}m{bits - 1 - exponent}"
        codes = np.arange(2**bits)
        expected = [definition(int(code), exponent, bits - 1 - exponent) for code in codes]
        np.testing.assert_array_equal(tilus.decode(name, codes), expected)


def test_eight_bit_floats_are_those_of_torch():
    codes = torch.arange(256, dtype=torch.uint8)
    for name, dtype in (("f8e4m3", torch.float8_e4m3fn), ("f8e5m2", torch.float8_e5m2)):
        np.testing.assert_array_equal(
            tilus.decode(name, codes.numpy()), codes.view(dtype).to(torch.float64).numpy()
        )
    values = torch.randn(1000) * 30
    ours = tilus.encode("f8e4m3", values.double().numpy())
    np.testing.assert_array_equal(ours, values.to(torch.float8_e4m3fn).view(torch.uint8).numpy())


def test_type_facts():
    facts = tilus.type_facts("f6")
    assert facts == ("f6e3m2", 6, 28.0, -28.0)
    with pytest.raises(ValueError, match="type 'f9'"):
        tilus.type_facts("f9")


def test_layouts():
    tile = tilus.Layout("spatial(2,4)") * tilus.Layout.local([2, 1])
    assert tile.shape == (4, 4)
    assert tile.threads == 8
    assert str(tile) == "spatial(2,4).local(2,1)"
    assert tile / tilus.Layout("local(2,1)") == tilus.Layout("spatial(2,4)")
    assert tile.left_divide(tilus.Layout("spatial(2,1)")) == tilus.Layout("spatial(1,4).local(2,1)")
    assert tile.at(5, 1) == (3, 1)
    assert tile.threads_of([3, 1]) == [5]
    assert tile.reduce([0]).threads_of([1]) == [1, 5]
    assert "5: 1" in tile.diagram()
    with pytest.raises(ValueError, match="not divisible"):
        tile / tilus.Layout("spatial(3,3)")


@pytest.mark.parametrize("name", ["u1", "u3", "i5", "f6e3m2", "f8e4m3"])
def test_layer_matches_the_dense_product(name, tmp_path):
    linear = torch.nn.Linear(128, 48)
    weights = tilus.quantize(linear.weight, name, group=64)
    layer = tilus.QuantizedLinear(weights, linear.bias)
    x = torch.randn(3, 5, 128, requires_grad=True)
    dense = tilus.dequantize(weights)
    expected = x @ dense + linear.bias
    found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    torch.testing.assert_close(x.grad, dense.sum(1).expand(3, 5, 128), rtol=1e-5, atol=1e-5)
    tilus.save(tmp_path / "w.safetensors", weights)
    again = tilus.load(tmp_path / "w.safetensors")
    assert torch.equal(tilus.dequantize(again), dense)
    with pytest.raises(OSError):
        tilus.save(tmp_path / "w.safetensors", weights)
    assert f"type={weights.type}" in repr(layer)
    other = tilus.QuantizedLinear.from_linear(linear, name, group=64)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), found)


def test_layer_compiles_with_meta_tensors():
    layer = tilus.QuantizedLinear(tilus.quantize(torch.randn(16, 64), "i4", group=32))
    shape = torch.ops.einkorn.tilus_linear(
        torch.empty(2, 64, device="meta"), layer.words, layer.scales, None, "i4", 64, 16, 32
    ).shape
    assert shape == (2, 16)


def test_weight_layout_comes_back():
    packed = torch.randint(0, 256, (64 * 32 * 7 // 8,), dtype=torch.uint8)
    tiles = tilus.change_layout(packed, 7, 64, 32, tile_n=32)
    assert tiles.shape == (4, 1, 448)
    assert torch.equal(tilus.restore_layout(tiles, 7, tile_n=32), packed)


def test_programs():
    x = np.arange(40, dtype=np.float32)
    found = tilus.run_program(ADD_ONE, x, 40)
    np.testing.assert_array_equal(x, np.arange(1, 41))
    assert found["blocks"] == 2
    assert tilus.check_program(ADD_ONE).startswith("program add_one(x: ptr f32, n: i32) warps 1 {")
    assert "__global__" in tilus.cuda_source(ADD_ONE)
    with pytest.raises(ValueError, match="line 6: r = add q, 1: no tensor 'q'"):
        tilus.check_program(ADD_ONE.replace("add r", "add q"))
    with pytest.raises(OSError, match="line 5: unknown instruction 'lode'"):
        tilus.check_program(ADD_ONE.replace("load", "lode"))


# ---- the command ----


def test_command_types_and_layouts():
    assert run("types")["count"] == 37
    table = run("types", "--type", "f4e2m1")
    assert table["values"] == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert table["max"] == 6
    found = run("layout", "spatial(2,12)", "--over", "spatial(1,3)")
    assert found["layout"] == "spatial(2,4)"
    assert found["threads"] == 8


def test_command_quantizes_and_multiplies(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((5, 256)).astype(np.float32)
    np.save(tmp_path / "W.npy", weight)
    np.save(tmp_path / "X.npy", x)
    found = run("quantize", "--in", "W.npy", "--type", "f6e3m2", "--group", "128", "--out",
                "Q.safetensors", cwd=tmp_path)  # fmt: skip
    assert found["relative_error"] == pytest.approx(0.0512, rel=0.05)
    assert found["bits_per_weight"] == pytest.approx(6 + 16 / 128)
    multiplied = run("matmul", "--x", "X.npy", "--weights", "Q.safetensors", "--out", "Y.npy",
                     "--against", "W.npy", cwd=tmp_path)  # fmt: skip
    assert multiplied["relative_error"] == pytest.approx(0.0512, rel=0.2)
    weights = tilus.load(tmp_path / "Q.safetensors")
    same = tilus.QuantizedLinear(weights)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "Y.npy"), same)


def test_command_compiles_and_runs(tmp_path):
    (tmp_path / "add_one.tile").write_text(ADD_ONE)
    found = run("run", "add_one.tile", "--arguments", "x=zeros[40] n=40", "--save", "x", "--out",
                "x.npy", cwd=tmp_path)  # fmt: skip
    assert found["blocks"] == 2
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.ones(40))
    found = run("compile", "add_one.tile", "--out", "add_one.cu", cwd=tmp_path)
    assert found["threads"] == 32
    assert (tmp_path / "add_one.cu").read_text() == tilus.cuda_source(ADD_ONE)
    run("compile", "--matmul", "f6e3m2", "--tile", "matmul.tile", cwd=tmp_path)
    tilus.check_program((tmp_path / "matmul.tile").read_text())
    assert run("tune", "--type", "i4", "--list")["schedules"] > 50


@pytest.mark.parametrize(
    "words, message",
    [
        (["types", "--type", "f9"], "type 'f9': expected one of"),
        (["types", "--type", "f32"], "too many numbers"),
        (["layout", "spatial(6)", "--over", "spatial(4)"], "not divisible"),
        (["layout", "warp(6)"], "unknown factor 'warp'"),
        (["compile"], "exactly one of them"),
        (["compile", "--matmul", "i4", "--schedule", "fast"], "schedule 'fast'"),
        (["compile", "--matmul", "i4", "--group", "8"], "no multiple of the block's 16"),
        (["run", "missing.tile"], "missing.tile"),
        (["tune", "--type", "i4", "--rows", "100"], "does not divide"),
    ],
)
def test_command_refuses(words, message, tmp_path):
    done = subprocess.run([COMMAND, "tilus", *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
