"""The Python face of inceptionnext, its command, and that they agree."""

import copy
import json
import os
import pickle
import signal
import struct
import subprocess
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import einkorn
from einkorn import inceptionnext

COMMAND = os.path.join(os.environ["EINKORN_BUILD"], "einkorn")
OPERATORS = torch.ops.einkorn


def run(*words, expected=0):
    done = subprocess.run([COMMAND, "inceptionnext", *words], capture_output=True, text=True)
    assert done.returncode == expected, done.stderr
    return done


def run_json(*words):
    return json.loads(run(*words, "--json").stdout)


def refused(*words):
    """What a bad call says: one line, nothing on stdout."""
    done = run(*words, expected=2)
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def write_png(path, pixels):
    """pixels [height, width, 3] uint8, as an 8-bit RGB file without filters."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def reference_images(channels, height, width):
    c, i, j = np.ogrid[:channels, :height, :width]
    return (((3 * c + 5 * i + 7 * j) % 13 - 6) / 8)[None].astype(np.float32)


def reference_weights(group, band):
    q = np.arange(group)[:, None, None, None]
    i = np.arange(3)[:, None]
    j = np.arange(band)
    square = ((9 * q + 3 * i + np.arange(3)) % 5 - 2) / 4
    wide = ((band * q + j) % 7 - 3) / 8
    tall = ((band * q + j[:, None] + 1) % 7 - 3) / 8
    bias = np.arange(group) / 2
    weights = (square, wide, tall, bias, bias + 0.25, bias - 0.25)
    return [weight.astype(np.float32) for weight in weights]


def random_weights(group, square, band, dtype=torch.float64):
    shapes = [(group, 1, square, square), (group, 1, 1, band), (group, 1, band, 1)]
    shapes += [(group,)] * 3
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


def composed_mixer(x, w_hw, w_w, w_h, b_hw, b_w, b_h):
    """The mixer by torch's own operators."""
    group = len(w_hw)
    parts = x.split([x.shape[1] - 3 * group, group, group, group], 1)
    convolved = [
        torch.nn.functional.conv2d(
            part, weight, bias, padding=[size // 2 for size in weight.shape[2:]], groups=group
        )
        for part, weight, bias in zip(parts[1:], (w_hw, w_w, w_h), (b_hw, b_w, b_h), strict=True)
    ]
    return torch.cat([parts[0], *convolved], 1)


# Operators


@pytest.mark.parametrize("as_array", [np.asarray, torch.from_numpy])
def test_reference_values(as_array):
    x = reference_images(16, 6, 7)
    y = inceptionnext.inception_dwconv(
        as_array(x), *[as_array(weight) for weight in reference_weights(2, 11)]
    )
    assert isinstance(y, np.ndarray if as_array is np.asarray else torch.Tensor)
    y = np.asarray(y)[0]
    np.testing.assert_array_equal(y[:10], x[0, :10])
    expected = {
        (10, 0): [-0.53125, 0.34375, -0.25, 0.375, 0.59375, -0.40625, -0.09375],
        (11, 5): [0.375, 0.0625, 0.5, 0.125, 0.5625, 0.1875, 0.96875],
        (12, 2): [0.03125, 0.34375, -0.0625, 0.296875, 0, 0.46875, 0.5625],
        (13, 3): [0.5625, 1.109375, 0.96875, 0.5, 0.796875, 0.4375, 0.84375],
        (14, 0): [-0.34375, 0.046875, -0.375, 0.21875, -0.40625, 0.1875, -0.4375],
        (15, 5): [0.65625, -0.0625, 0.640625, -0.078125, 0.015625, -0.09375, 0],
    }
    for (channel, row), values in expected.items():
        np.testing.assert_array_equal(y[channel, row], values)
    assert y.sum(dtype=np.float64) == 59.734375
    assert np.square(y.astype(np.float64)).sum() == 156.929443359375


def test_biases_default_to_zero_and_branches_are_the_last_channels():
    x = torch.randn(2, 9, 6, 5)
    weights = random_weights(2, 3, 5, torch.float32)
    zeros = [torch.zeros(2)] * 3
    y = inceptionnext.inception_dwconv(x, *weights[:3], *zeros)
    assert torch.equal(inceptionnext.inception_dwconv(x, *weights[:3]), y)
    branches = inceptionnext.inception_dwconv_branches(x, *weights[:3])
    assert torch.equal(branches, y[:, 3:])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients(memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64).contiguous(memory_format=memory_format)
    inputs = [x, *random_weights(2, 3, 5)]
    for tensor in inputs:
        tensor.requires_grad_()
    torch.testing.assert_close(
        inceptionnext.inception_dwconv(*inputs), composed_mixer(*inputs), rtol=1e-12, atol=1e-12
    )
    assert torch.autograd.gradcheck(inceptionnext.inception_dwconv, inputs)
    assert torch.autograd.gradgradcheck(inceptionnext.inception_dwconv, inputs)
    weight = torch.randn(8, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(inceptionnext.depthwise_conv2d, (x, weight, bias))
    assert torch.autograd.gradgradcheck(inceptionnext.depthwise_conv2d, (x, weight, bias))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_operators_keep_torchs_rules(memory_format):
    x = torch.randn(2, 8, 4, 5).contiguous(memory_format=memory_format).requires_grad_()
    weights = [weight.requires_grad_() for weight in random_weights(2, 3, 5, torch.float32)]
    weight = torch.randn(8, 1, 3, 3, requires_grad=True)
    dy = torch.randn_like(x, requires_grad=True)
    samples = [
        (OPERATORS.inception_dwconv, (x, *weights)),
        (OPERATORS.inception_dwconv_branches, (x, *weights)),
        (OPERATORS.inception_dwconv_input_gradient, (dy, *weights[:3])),
        (OPERATORS.inception_dwconv_weight_gradient, (dy, x, *weights[:3])),
        (OPERATORS.depthwise_conv2d, (x, weight)),
        (OPERATORS.depthwise_conv2d, (x, weight, torch.randn(8, requires_grad=True))),
        (OPERATORS.depthwise_conv2d_input_gradient, (dy, weight)),
        (OPERATORS.depthwise_conv2d_weight_gradient, (dy, x, weight)),
    ]
    for operator, arguments in samples:
        torch.library.opcheck(operator.default, arguments)


def test_compiled_whole_with_gradients():
    """One graph, sizes left open, forward and backward."""

    def loss(x, *weights):
        return (inceptionnext.inception_dwconv(x.relu(), *weights) ** 2).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for height, width in ((5, 6), (9, 4)):
        x = torch.randn(2, 8, height, width, dtype=torch.float64, requires_grad=True)
        weights = [weight.requires_grad_() for weight in random_weights(2, 3, 5)]
        found = torch.autograd.grad(compiled(x, *weights), [x, *weights])
        expected = torch.autograd.grad(loss(x, *weights), [x, *weights])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: inceptionnext.depthwise_conv2d(x[0], w),
        lambda x, w: inceptionnext.depthwise_conv2d(x.int(), w),
        lambda x, w: inceptionnext.depthwise_conv2d(x, w[:3]),
        lambda x, w: inceptionnext.inception_dwconv(x, *random_weights(3, 3, 5)),
        lambda x, w: inceptionnext.inception_dwconv(x, *random_weights(1, 2, 5)),
        lambda x, w: inceptionnext.inception_dwconv(x.numpy(), *random_weights(1, 3, 4)),
    ],
)
def test_operators_refuse_what_does_not_fit(call):
    with pytest.raises(ValueError, match="expected|need"):
        call(torch.zeros(1, 8, 5, 5), torch.zeros(8, 1, 3, 3))


# Configs and counts


def test_counts_of_the_paper():
    published = {
        "atto": (4156520, 503035040),
        "tiny": (28055680, 4188634272),
        "small": (49374016, 8355682080),
        "base": (86672136, 14841072000),
        "base-384": (86672136, 43602524160),
        "convnext-tiny": (28589128, 4455531264),
    }
    for name, (parameters, macs) in published.items():
        found = inceptionnext.describe(name)
        assert (found.parameters, found.macs) == (parameters, macs)
        printed = run_json("describe", "--model", name)
        assert printed["result"]["parameters"] == parameters
        assert printed["result"]["macs"] == macs
    partial = inceptionnext.named_config("convnext-tiny", kernel_size=3, convolved_share=1 / 8)
    assert inceptionnext.describe(partial).parameters == 28266208
    job = einkorn.jobs.inceptionnext.describe(
        model="convnext-tiny", kernel_size=3, convolved_share=0.125
    )
    assert job["result"]["parameters"] == 28266208
    assert [stage.mixer_macs for stage in inceptionnext.describe("tiny").stages] == [
        1166592,
        583296,
        291648,
        145824,
    ]


def test_defaults_are_those_of_tiny():
    assert inceptionnext.named_config("tiny") == inceptionnext.NetworkConfig()
    assert set(inceptionnext.config_names()) >= {"atto", "tiny", "small", "base", "toy"}
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        inceptionnext.named_config("tinny")


@pytest.mark.parametrize(
    "changes",
    [
        {"band_size": 10},
        {"branch_ratio": 0.5},
        {"branch_ratio": 0.001},
        {"classes": 0},
        {"mixer": "identiti"},
        {"frame": "resnet"},
        {"depths": (1, 2)},
        {"mlp_ratios": (1e300,) * 4},
        {"dims": (1 << 40,) * 4},
        {"dims": ("a", "b", "c", "d")},
        {"drop_path": 1.0},
    ],
)
def test_configs_that_make_no_network(changes):
    with pytest.raises(ValueError):
        inceptionnext.describe(inceptionnext.named_config("tiny", **changes))
    with pytest.raises(ValueError):
        inceptionnext.Network("tiny", **changes)


# Networks


def toy(**changes):
    """Small, with norms and layer scales as after training: nothing is 0 or 1."""
    torch.manual_seed(1)
    network = inceptionnext.Network("toy", layer_scale=0.5, **changes)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif "dwconv" in name or "mlp" in name:
                parameter.mul_(8)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.5)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return network.eval()


def test_is_a_torch_module_under_timms_names():
    network = inceptionnext.Network("atto", classes=7, in_channels=5)
    assert sum(parameter.numel() for parameter in network.parameters()) == (
        inceptionnext.describe(network.config).parameters
    )
    names = set(network.state_dict())
    assert {
        "stem.0.weight",
        "stem.1.running_var",
        "stages.1.downsample.0.weight",
        "stages.1.downsample.1.bias",
        "stages.2.blocks.5.token_mixer.dwconv_hw.weight",
        "stages.2.blocks.5.token_mixer.dwconv_w.bias",
        "stages.2.blocks.5.token_mixer.dwconv_h.weight",
        "stages.2.blocks.5.norm.num_batches_tracked",
        "stages.2.blocks.5.mlp.fc1.weight",
        "stages.2.blocks.5.gamma",
        "head.fc1.weight",
        "head.norm.bias",
        "head.fc2.weight",
    } <= names
    features = network.eval().features(torch.randn(1, 5, 64, 96))
    shapes = [(40, 16, 24), (80, 8, 12), (160, 4, 6), (320, 2, 3)]
    assert [tuple(feature.shape[1:]) for feature in features] == shapes
    with pytest.raises(ValueError, match="expected images"):
        network(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match="at least 32 x 32"):
        network(torch.randn(1, 5, 31, 64))


@pytest.mark.parametrize("name", ["inception_next_atto", "convnext_tiny"])
def test_weights_of_timm(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    theirs = timm.create_model(name).eval()
    ours = inceptionnext.Network(name).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_trains_in_python():
    torch.manual_seed(3)
    network = inceptionnext.Network("toy", dims=(12, 24, 48), layer_scale=0.1)
    images = torch.randn(32, 1, 16, 16)
    labels = (images.mean((1, 2, 3)) > 0).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert network.state_dict()["stem.1.num_batches_tracked"] == 30


def test_moves_and_copies():
    network = toy()
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = network(images)
        twin = copy.deepcopy(network)
        restored = pickle.loads(pickle.dumps(network))
        for other in (twin, restored):
            assert not other.training
            assert torch.equal(other(images), expected)
        with torch.no_grad():
            twin.get_parameter("stem.0.weight").zero_()
        assert torch.equal(network(images), expected)
        double = network.double()
        assert double is network
        torch.testing.assert_close(double(images.double()), expected.double(), rtol=1e-4, atol=1e-5)


def test_numpy_in_numpy_out():
    network = toy()
    images = np.random.default_rng(0).normal(size=(2, 1, 32, 32)).astype(np.float32)
    logits = network(images)
    assert isinstance(logits, np.ndarray) and logits.shape == (2, 10)
    features = network.fold().features(images)
    assert [feature.shape for feature in features] == [
        (2, 24, 8, 8),
        (2, 48, 4, 4),
        (2, 96, 2, 2),
    ]


@pytest.mark.parametrize("mixer", ["inception", "depthwise", "identity"])
def test_folded_network_agrees(mixer, tmp_path):
    network = toy(mixer=mixer)
    folded = inceptionnext.fold(network)
    images = torch.randn(3, 1, 37, 50)
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(
        folded(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item()
    )
    assert not any("norm" in name for name in folded.state_dict() if "head" not in name)
    folded.save(tmp_path / "folded.safetensors")
    again = inceptionnext.load(tmp_path / "folded.safetensors")
    assert isinstance(again, inceptionnext.FoldedNetwork)
    assert torch.equal(again(images), folded(images))
    half = again.to(dtype=torch.bfloat16)(images.bfloat16()).float()
    torch.testing.assert_close(half, expected, rtol=0, atol=0.1 * expected.abs().max().item())
    with pytest.raises(ValueError, match="BatchNorm"):
        inceptionnext.Network("convnext-tiny", depths=(1, 1, 1, 1)).fold()


def test_files(tmp_path):
    network = toy()
    path = tmp_path / "network.safetensors"
    network.save(path)
    again = inceptionnext.load(path)
    assert again.config == replace(network.config, layer_scale=again.config.layer_scale)
    images = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))
    with pytest.raises(OSError, match="network.safetensors.*exists"):
        network.save(path)
    network.save(path, force=True)
    three = inceptionnext.load(
        path, inceptionnext.named_config("toy", in_channels=3, classes=4), transfer=True
    )
    assert three(torch.randn(1, 3, 32, 32)).shape == (1, 4)
    with pytest.raises(OSError, match="weights do not fit"):
        inceptionnext.load(path, "tiny")
    with pytest.raises(OSError, match="gone.safetensors"):
        inceptionnext.load(tmp_path / "gone.safetensors")


def read_safetensors(path):
    """Metadata, entries and bytes."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    entries = json.loads(content[8 : 8 + length])
    return entries.pop("__metadata__"), entries, content[8 + length :]


def write_safetensors(path, metadata, entries, values):
    text = json.dumps({**entries, **({"__metadata__": metadata} if metadata else {})}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    return path


def test_files_of_others_need_a_name(tmp_path):
    network = toy()
    network.save(tmp_path / "own.safetensors")
    _, entries, values = read_safetensors(tmp_path / "own.safetensors")
    plain = write_safetensors(tmp_path / "plain.safetensors", None, entries, values)
    with pytest.raises(OSError, match="does not say what network"):
        inceptionnext.load(plain)
    images = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(inceptionnext.load(plain, "toy")(images), network(images))
    assert "--model" in refused("fold", str(plain), "--out", str(tmp_path / "out"))
    run("fold", str(plain), "--model", "toy", "--out", str(tmp_path / "out"))


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "network.safetensors"
    toy().save(path)
    metadata, entries, values = read_safetensors(path)
    for changes, words in [
        ({"dims": "24,48,1000000000"}, "metadata"),
        ({"dims": "24,48,99999999999999999999"}, "not a list of whole numbers"),
        ({"dims": "2400,4800,9600"}, "the file holds"),
        ({"band_size": "8"}, "odd size"),
        ({"mixer": "fourier"}, "expected inception, depthwise or identity"),
        ({"einkorn.network": "other"}, "expected metanext or convnext"),
        ({"crop_share": "-1"}, "crop share"),
        ({"classes": "11"}, "weights do not fit"),
    ]:
        write_safetensors(path, {**metadata, **changes}, entries, values)
        with pytest.raises(OSError, match=words):
            inceptionnext.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match="network.safetensors"):
        inceptionnext.load(path)
    begin, _ = entries["head.fc1.bias"]["data_offsets"]
    with_nan = values[:begin] + struct.pack("<f", float("nan")) + values[begin + 4 :]
    write_safetensors(path, metadata, entries, with_nan)
    with pytest.raises(OSError, match="head.fc1.bias.*not finite"):
        inceptionnext.load(path)


def test_what_a_network_looks_at(tmp_path):
    network = toy(in_channels=3)
    field = network.receptive_field(torch.randn(2, 3, 32, 32))
    assert field.shape == (32, 32) and field.max() == 1
    kernels = network.spatial_kernels()
    assert kernels["stages.2.blocks.1.dwconv_w"].shape == (12, 1, 7)
    path = tmp_path / "toy.safetensors"
    network.save(path)
    found = einkorn.jobs.inceptionnext.describe(
        model="toy",
        in_channels=3,
        weights=path,
        receptive_field=tmp_path / "field.npy",
        kernels=tmp_path / "kernels.npz",
    )["result"]
    assert 0 < found["area_with_half"] <= found["area_with_99_percent"] <= 1
    assert np.load(tmp_path / "field.npy").shape == (32, 32)
    written = np.load(tmp_path / "kernels.npz")
    np.testing.assert_array_equal(
        written["stages.0.blocks.0.dwconv_h"], kernels["stages.0.blocks.0.dwconv_h"].numpy()
    )


# Jobs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A toy network after three epochs of digits, and what its training printed."""
    path = tmp_path_factory.mktemp("trained") / "digits.safetensors"
    return path, run_json("train", "--epochs", "3", "--seed", "5", "--out", str(path))


def test_training_learns_digits(trained):
    path, printed = trained
    assert set(printed) >= {"system", "job", "options", "result", "tables", "seconds"}
    assert printed["result"]["epochs"] == 3
    assert printed["result"]["resumed_at"] == 0
    assert printed["result"]["test_accuracy"] > 0.5
    network = inceptionnext.load(path)
    assert network.config.classes == 10 and network.config.in_channels == 1


def test_same_seed_same_weights(trained, tmp_path):
    path, printed = trained
    other = run_json(
        "train", "--epochs", "3", "--seed", "5", "--out", str(tmp_path / "b.safetensors")
    )
    assert other["result"] == printed["result"]
    assert (tmp_path / "b.safetensors").read_bytes() == path.read_bytes()
    third = run_json(
        "train", "--epochs", "3", "--seed", "6", "--out", str(tmp_path / "c.safetensors")
    )
    assert third["result"]["train_loss"] != printed["result"]["train_loss"]


def test_mixed_precision_is_for_cuda(tmp_path):
    with pytest.raises(ValueError, match="(?i)cuda"):
        inceptionnext.Network("toy").mixed_precision_forward(torch.zeros(1, 3, 32, 32))
    out = tmp_path / "out.safetensors"
    said = refused("train", "--precision", "bf16", "--out", str(out))
    assert "--precision: bf16 needs --device cuda" in said
    assert not out.exists()


def test_interrupted_training_resumes_to_the_same_result(trained, tmp_path):
    """Ctrl-C after an epoch, then --resume: the weights are those of an unbroken run."""
    path, printed = trained
    out = tmp_path / "resumed.safetensors"
    checkpoint = tmp_path / "run.checkpoint"
    words = ["train", "--epochs", "3", "--seed", "5", "--out", str(out)]
    words += ["--checkpoint", str(checkpoint)]
    process = subprocess.Popen(
        [COMMAND, "inceptionnext", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not out.exists()
    assert sorted(tmp_path.iterdir()) == [checkpoint]

    assert "--resume goes on from it" in refused(*words)
    again = run_json(*words, "--resume")
    assert again["result"]["resumed_at"] in (1, 2)
    assert again["result"]["test_accuracy"] == printed["result"]["test_accuracy"]
    assert again["result"]["train_loss"] == printed["result"]["train_loss"]
    assert out.read_bytes() == path.read_bytes()
    other_course = [word if word != "5" else "7" for word in words]
    assert "run.checkpoint" in refused(*other_course, "--resume", "--force")


def test_classifies_a_png(trained, tmp_path):
    """A digit of the training data, as a photograph of it; all three faces agree."""
    path, _ = trained
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    folded = tmp_path / "folded.safetensors"
    run("fold", str(path), "--out", str(folded))
    for index in (0, 1, 4):
        grey = np.repeat(np.repeat(digits.images[index] / 16 * 255, 4, 0), 4, 1)
        pixels = np.repeat(np.rint(grey).astype(np.uint8)[:, :, None], 3, 2)
        png = tmp_path / f"{index}.png"
        write_png(png, pixels)
        np.save(tmp_path / f"{index}.npy", pixels)
        np.testing.assert_array_equal(
            inceptionnext.read_image(png).numpy(), pixels.transpose(2, 0, 1)
        )
    images = [str(tmp_path / name) for name in ("0.png", "1.npy", "4.png")]
    printed = run_json("classify", "--weights", str(path), "--top", "3", ",".join(images))
    network = inceptionnext.load(path)
    found = inceptionnext.classify(network, images, top=3)
    rows = printed["tables"][0]["rows"]
    assert len(rows) == 9
    assert printed["result"]["classes"] == [one.classes[0] for one in found]
    assert [row[2] for row in rows] == [index for one in found for index in one.classes]
    np.testing.assert_allclose(
        [row[4] for row in rows], [p for one in found for p in one.probabilities], rtol=1e-4
    )
    again = run_json("classify", "--weights", str(folded), ",".join(images))
    assert again["result"]["classes"] == printed["result"]["classes"]
    np.testing.assert_allclose(
        again["result"]["probabilities"], printed["result"]["probabilities"], rtol=1e-4
    )
    # The network sees what training showed it.
    x = inceptionnext.image_input(inceptionnext.read_image(images[0]), network.config)
    expected = np.repeat(np.repeat(digits.images[0] / 8 - 1, 4, 0), 4, 1)
    np.testing.assert_allclose(x[0, 0].numpy(), expected, atol=1 / 128)


def test_class_names(trained, tmp_path):
    path, _ = trained
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"digit {i}" for i in range(10)))
    np.save(tmp_path / "a.npy", np.zeros((40, 50, 3), np.uint8))
    words = ["classify", "--weights", str(path), str(tmp_path / "a.npy"), "--labels", str(names)]
    rows = run_json(*words)["tables"][0]["rows"]
    assert all(row[3] == f"digit {row[2]}" for row in rows)
    names.write_text("one\ntwo\n")
    assert "has 2 names, the network 10 classes" in refused(*words)


def test_fold_reports_its_error(trained, tmp_path):
    path, _ = trained
    out = tmp_path / "folded.safetensors"
    result = run_json("fold", str(path), "--out", str(out))["result"]
    assert 0 <= result["max_error"] <= 1e-5
    assert result["parameters_after"] < result["parameters_before"]
    assert isinstance(inceptionnext.load(out), inceptionnext.FoldedNetwork)
    assert "is folded already" in refused("fold", str(out), "--out", str(tmp_path / "c"))
    assert "--force" in refused("fold", str(path), "--out", str(out))
    run("fold", str(path), "--out", str(out), "--force")


def test_bad_input_is_one_line(trained, tmp_path):
    path, _ = trained
    out = str(tmp_path / "out.safetensors")
    image = tmp_path / "image.png"
    write_png(image, np.zeros((9, 9, 3), np.uint8))
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.png"
    cut.write_bytes(image.read_bytes()[:40])
    grey = tmp_path / "grey.npy"
    np.save(grey, np.zeros((9, 9), np.uint8))
    weights = ["--weights", str(path)]
    gone = str(tmp_path / "gone.png")
    assert "gone.png" in refused("classify", *weights, gone)
    assert "empty.png" in refused("classify", *weights, str(empty))
    assert "cut.png" in refused("classify", *weights, str(cut))
    assert "grey.npy: expected an array" in refused("classify", *weights, str(grey))
    assert "image.png" in refused("classify", "--weights", str(image), str(image))
    assert "weights do not fit" in refused("classify", *weights, "--model", "tiny", str(image))
    assert "at least 16 x 16" in refused("classify", *weights, "--resolution", "8", str(image))
    assert "did you mean 'tiny'" in refused("describe", "--model", "tinny")
    assert "no pixels" in refused("describe", "--model", "tiny", "--resolution", "31")
    assert "too large to be counted" in refused("describe", "--resolution", "3000000000")
    assert "odd size" in refused("describe", "--kernel-size", "4")
    assert "branch-ratio" in refused("describe", "--branch-ratio", "0.4")
    assert "leaves none" in refused("describe", "--branch-ratio", "0.001")
    assert "--out" in refused("train", "--epochs", "1")
    assert "epochs" in refused("train", "--epochs", "0", "--out", out)
    assert "needs --checkpoint" in refused("train", "--resume", "--out", out)
    assert "learning-rate" in refused("train", "--learning-rate", "nan", "--out", out)
    assert "nowhere" in refused("train", "--out", str(tmp_path / "nowhere" / "a.safetensors"))
    assert not os.path.exists(out)
    if not torch.cuda.is_available():
        assert "cuda" in refused("train", "--device", "cuda", "--out", out)


def test_bad_arguments_of_jobs_are_python_errors(tmp_path):
    with pytest.raises(ValueError):
        einkorn.jobs.inceptionnext.describe(model="tinny")
    with pytest.raises(OSError):
        einkorn.jobs.inceptionnext.fold(tmp_path / "gone", out=tmp_path / "out")
    with pytest.raises(ValueError, match="top"):
        inceptionnext.classify(toy(), [], top=0)
    with pytest.raises(OSError):
        inceptionnext.read_image(tmp_path / "gone.png")
