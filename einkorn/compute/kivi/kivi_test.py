"""The Python face of kivi and the command."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch

import einkorn
from einkorn import kivi

COMMAND = os.path.join(os.environ["EINKORN_BUILD"], "einkorn")


def run(*arguments: object, code: int = 0) -> dict:
    done = subprocess.run(
        [COMMAND, "kivi", *map(str, arguments), "--json"], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else {"error": done.stderr}


def exact(q, k, v, causal=True):
    share = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(share, 1) for x in (k, v))
    scores = q.double() @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if causal:
        n, m = k.shape[2], q.shape[2]
        last = n - m + torch.arange(m)[:, None]
        scores = scores.masked_fill(torch.arange(n) > last, -torch.inf)
    return torch.softmax(scores, -1) @ v


def error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


# ---- the quantiser -----------------------------------------------------------------------------


def reference_group():
    return ((7 * np.arange(32) + 3) % 22 - 11).astype(np.float32) / 8


@pytest.mark.parametrize(
    "bits, words",
    [
        (2, ["e7924924", "24924e79"]),
        (4, ["61b61c72", "e94fa50b", "72d83e94", "0b61b61c"]),
    ],
)
def test_reference_words(bits, words):
    packed = kivi.quantize_pack(reference_group(), bits=bits)
    assert isinstance(packed.codes, np.ndarray)
    assert [f"{word:08x}" for word in packed.codes.view(np.uint32)] == words
    back = kivi.unpack_dequantize(*packed, bits=bits)
    assert np.abs(back - reference_group()).max() <= packed.scale[0] / 2 * (1 + 1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_official_packing_of_keys(bits):
    """Word by word as the official quantiser packs: f consecutive tokens of a channel."""
    k = torch.randn(2, 3, 64, 32, dtype=torch.float16)
    packed = kivi.quantize_pack(k, -2, bits=bits)
    groups = k.transpose(2, 3).reshape(2, 3, 32, 2, 32).float()
    least = groups.amin(-1, keepdim=True)
    scale = ((groups.amax(-1, keepdim=True) - least) / (2**bits - 1)).half().float()
    codes = torch.round(((groups - least) / scale).clamp(0, 2**bits - 1)).reshape(2, 3, 32, 64)
    stream = np.unpackbits(packed.codes.numpy().view(np.uint8), axis=-1, bitorder="little").reshape(
        2, 3, 32, 64, bits
    )
    assert np.array_equal((stream << np.arange(bits)).sum(-1), codes.numpy())
    assert torch.equal(packed.scale, scale.squeeze(-1).half())
    scores = kivi.qgemv_outer(torch.ones(2, 3, 1, 32), *packed, bits=bits)
    dense = kivi.unpack_dequantize(*packed, -2, bits=bits)
    assert torch.allclose(scores[:, :, 0], dense.float().sum(-1), atol=1e-2)


def test_bit_packing():
    codes = np.array([(5 * i + 3) % 8 for i in range(16)], np.uint8)
    packed = kivi.pack_bits(codes, 3)
    assert packed.tobytes().hex() == "4375c64375c6"
    assert np.array_equal(kivi.unpack_bits(packed, 3, 16), codes)


def test_operators_compile_and_have_no_gradient():
    x = torch.randn(4, 64)
    torch.library.opcheck(
        torch.ops.einkorn.kivi_quantize_pack, (x, -1, 2, 32), test_utils=("test_schema",)
    )
    packed = torch.ops.einkorn.kivi_quantize_pack(x.requires_grad_(), -1, 2, 32)
    with pytest.raises(RuntimeError, match="derivative.*not implemented|not implemented"):
        packed[1].sum().backward()


# ---- the cache ---------------------------------------------------------------------------------


def filled(tokens=200, **options):
    settings = dict(layers=2, batch=2, kv_heads=2, head_dim=64, residual=64, dtype=torch.float32)
    cache = kivi.KiviCache(**(settings | options))
    k, v = torch.randn(2, 2, 2, tokens, 64).to(cache.dtype)
    cache.prefill(0, k, v)
    return cache, k, v


def test_a_decode_loop():
    cache, k, v = filled(bits=8)
    for _ in range(70):
        new = torch.randn(2, 2, 2, 1, 64)
        cache.append(0, *new)
        k, v = torch.cat([k, new[0]], 2), torch.cat([v, new[1]], 2)
    q = torch.randn(2, 6, 1, 64)
    out = cache.attend(0, q)
    assert out.shape == (2, 6, 1, 64)
    assert error(out, exact(q, k, v)) < 0.02
    # f32 roundings of numbers and of sums of 64 products, which the softmax takes as they are
    assert error(out, exact(q, *cache.dequantize(0))) < 1e-5
    assert cache.state() == (270, 256, 14, 205, 65)
    assert cache.state(1) == (0, 0, 0, 0, 0)


def test_update_fills_then_appends():
    cache, k, v = filled(tokens=0)
    cache.update(*torch.randn(2, 2, 2, 100, 64), 0)
    assert cache.state().values_residual == 64
    cache.update(*torch.randn(2, 2, 2, 1, 64), 0)
    assert cache.state() == (101, 64, 37, 36, 65)


def test_ragged_lengths_masks_and_scale():
    cache, _, _ = filled(tokens=0)
    k, v = torch.randn(2, 2, 2, 150, 64)
    cache.prefill(0, k, v, torch.tensor([150, 20]))
    q = torch.randn(2, 2, 2, 64)
    keys, values = cache.dequantize(0)
    assert error(cache.attend(0, q)[1:], exact(q[1:], keys[1:, :, :20], values[1:, :, :20])) < 1e-5
    mask = torch.rand(2, 1, 2, 150) < 0.5
    mask[..., 0] = True
    scores = (q @ keys.transpose(2, 3) * 0.5).masked_fill(~mask, -torch.inf)
    expected = torch.softmax(scores[:1].double(), -1) @ values[:1].double()
    found = cache.attend(0, q, scale=0.5, causal=False, mask=mask)
    assert error(found[:1], expected) < 1e-5


def test_fork_trim_and_files(tmp_path):
    cache, _, _ = filled(layers=1, dtype=torch.bfloat16)
    q = torch.randn(3, 2, 1, 64)
    before = cache.attend(0, q[:2])
    cache.fork(torch.tensor([1, 1, 0]))
    assert cache.batch == 3
    assert torch.equal(cache.attend(0, q[[0, 1, 1]])[0], cache.attend(0, q[[0, 0, 1]])[1])
    assert torch.equal(cache.attend(0, q[[0, 1, 0]])[2], before[0])
    assert cache.trim([200, 199, 130]) == 130 - 128
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    loaded = kivi.KiviCache.load(path)
    assert loaded.dtype == torch.bfloat16 and loaded.batch == 3
    assert torch.equal(loaded.attend(0, q), cache.attend(0, q))
    assert "head_dim=64" in repr(loaded)
    with pytest.raises(OSError, match="exist"):
        cache.save(path)
    cache.save(path, force=True)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(OSError):
        kivi.KiviCache.load(path)


def test_pack_is_the_published_packing():
    cache, k, _ = filled()
    packed = cache.pack(0, 1)
    direct = kivi.quantize_pack(k[1, :, :192], -2)
    assert torch.equal(packed["keys"].codes, direct.codes)
    assert torch.equal(packed["key_residual"], k[1, :, 192:])
    other = kivi.KiviCache(batch=1, kv_heads=2, head_dim=64, residual=64, dtype=torch.float32)
    other.unpack(0, 0, packed)
    assert torch.equal(other.dequantize(0)[0][0], cache.dequantize(0)[0][1])


def test_memory_is_that_of_the_command():
    cache, _, _ = filled()
    assert cache.memory()["bytes"] > 0
    options = dict(tokens=4096, layers=32, kv_heads=8)
    found = run("memory", "--tokens", 4096, "--kv-heads", 8)["result"]
    assert found["bytes"] == kivi.memory(**options)["bytes"] == 107479040
    assert found["fp16_bytes"] == kivi.memory(**options)["dense"] == 536870912
    assert found["ratio"] == pytest.approx(536870912 / 107479040)
    job = einkorn.jobs.kivi.memory(tokens=4096, kv_heads=8)
    assert job["result"] == found


def test_bad_input_is_a_value_error():
    with pytest.raises(ValueError, match="residual: expected a positive multiple of group 32"):
        kivi.KiviCache(residual=100)
    with pytest.raises(ValueError, match="bits: expected 1, 2, 3, 4 or 8, got 6"):
        kivi.quantize_pack(torch.zeros(32), bits=6)
    cache, _, _ = filled()
    with pytest.raises(ValueError, match="queries: expected"):
        cache.attend(0, torch.zeros(2, 3, 1, 64))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda"):
            kivi.KiviCache(device="cuda")


# ---- the command -------------------------------------------------------------------------------


def test_attend_on_files(tmp_path):
    rng = np.random.default_rng(0)
    k, v = rng.standard_normal((2, 1, 2, 300, 64)).astype(np.float32)
    q = rng.standard_normal((1, 4, 1, 64)).astype(np.float32)
    np.savez(tmp_path / "kvq.npz", k=k, v=v, q=q)
    for name, array in (("k", k), ("v", v), ("q", q)):
        np.save(tmp_path / f"{name}.npy", array)
    out = tmp_path / "out.npy"
    cache = tmp_path / "cache.safetensors"
    common = ["--bits", 4, "--out", out, "--out-cache", cache]
    found = run("attend", tmp_path / "kvq.npz", *common)["result"]
    expected = exact(*map(torch.from_numpy, (q, k, v)))
    result = torch.from_numpy(np.load(out))
    assert result.shape == (1, 4, 1, 64)
    assert found["relative_error"] == pytest.approx(error(result, expected), rel=1e-3)
    assert 0 < found["relative_error"] < 0.2
    assert found["fp16_bytes"] == 2 * k.size * 2
    assert kivi.KiviCache.load(cache).state() == (300, 256, 44, 171, 129)

    separate = ["--keys", tmp_path / "k.npy", "--values", tmp_path / "v.npy"]
    again = run("attend", *separate, "--queries", tmp_path / "q.npy", "--bits", 4)["result"]
    assert again["relative_error"] == found["relative_error"]
    exact_rows = ["--residual", 512, "--dtype", "float32"]
    assert run("attend", tmp_path / "kvq.npz", *exact_rows)["result"]["relative_error"] < 1e-6

    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"K": k, "V": v, "Q": q}, tmp_path / "kvq.safetensors")
    third = run("attend", tmp_path / "kvq.safetensors", "--bits", 4)["result"]
    assert third["relative_error"] == found["relative_error"]


def test_attend_refuses(tmp_path):
    np.savez(tmp_path / "k.npz", k=np.zeros((4, 32), np.float32))
    assert "--values" in run("attend", tmp_path / "k.npz", code=2)["error"]
    zeros = np.zeros((40, 32), np.float32)
    np.savez(tmp_path / "kvq.npz", k=zeros, v=zeros[:39], q=zeros[:1])
    assert "values: expected the shape" in run("attend", tmp_path / "kvq.npz", code=2)["error"]
    np.savez(tmp_path / "kvq.npz", k=zeros, v=zeros, q=zeros[:, :16])
    assert "does not fit keys" in run("attend", tmp_path / "kvq.npz", code=2)["error"]
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert "broken.safetensors" in run("attend", tmp_path / "broken.safetensors", code=2)["error"]


def test_axis():
    found = run("axis")["result"]
    assert found["key_error_per_token"] == pytest.approx(0.5705, abs=5e-5)
    assert found["key_error_per_channel"] == pytest.approx(0.2183, abs=5e-5)
    assert found["value_error_per_token"] == pytest.approx(0.3983, abs=5e-5)
    assert found["value_output_error_per_channel"] == pytest.approx(1.0898, abs=5e-5)
    assert found["output_error_kivi"] == pytest.approx(0.6815, abs=5e-5)


def test_axis_of_a_file(tmp_path):
    rng = np.random.default_rng(1)
    k, v = rng.standard_normal((2, 2, 64, 32))
    q = rng.standard_normal((4, 8, 32))
    np.savez(tmp_path / "kvq.npz", keys=k, values=v, queries=q)
    first = run("axis", tmp_path / "kvq.npz", "--head", 0)["result"]
    last = run("axis", tmp_path / "kvq.npz", "--head", 3)["result"]
    assert 0 < first["key_error_per_channel"] != last["key_error_per_channel"]
    assert (
        "--head: expected 0 to 3" in run("axis", tmp_path / "kvq.npz", "--head", 4, code=2)["error"]
    )


def test_reproduces():
    done = subprocess.run([COMMAND, "reproduce", "kivi", "--json"], capture_output=True, text=True)
    rows = json.loads(done.stdout)
    assert done.returncode == 0, rows
    assert rows[0]["pass"] and len(rows[0]["metrics"]) >= 25
