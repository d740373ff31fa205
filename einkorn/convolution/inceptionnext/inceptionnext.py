"""InceptionNeXt: depthwise convolution split in cheap branches, and the networks made of it.

:func:`inception_dwconv` and :func:`depthwise_conv2d` are differentiable operators (also
``torch.ops.einkorn.inception_dwconv`` and ``torch.ops.einkorn.depthwise_conv2d``, which
torch.compile takes as they are). :class:`Network` is a :class:`torch.nn.Module` whose parameters
have timm's names; :class:`FoldedNetwork` is the same network for inference, without its norms.

Arrays may be torch tensors, numpy arrays or other DLPack objects; results follow them. Bad
arguments raise ValueError, bad files OSError.

Yu, Zhou, Yan, Wang, "InceptionNeXt: When Inception Meets ConvNeXt", CVPR 2024, arXiv 2303.16900.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch

from ._arrays import Array, accepts_arrays
from ._einkorn import inceptionnext as _inceptionnext

__all__ = [
    "ClassifiedImage",
    "Count",
    "FoldedNetwork",
    "Network",
    "NetworkConfig",
    "StageCount",
    "classify",
    "config_names",
    "depthwise_conv2d",
    "describe",
    "fold",
    "image_input",
    "inception_dwconv",
    "inception_dwconv_branches",
    "load",
    "named_config",
    "read_image",
]

Path = str | os.PathLike[str]


# Operators


@accepts_arrays("x", "weight", "bias")
def depthwise_conv2d(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Depthwise convolution with stride 1 and the zero padding of torch's ``"same"``.

    Parameters
    ----------
    x : images [N, C, H, W], contiguous or channels last, or [N, C/b, H, W, b] in blocks of b
        channels; float32, float64, float16 or bfloat16
    weight : [C, 1, kernel height, kernel width], sizes >= 1, odd or even
    bias : [C], or None for zeros

    Returns images of ``x``'s shape, type and memory format; sums are float32 (float64 for float64).
    Differentiable in all three to any order. Raises ValueError for shapes and types that do not
    fit.
    """
    return torch.ops.einkorn.depthwise_conv2d(x, weight, bias)


def _biases(weights: Sequence[Any], biases: Sequence[Any]) -> list[Any]:
    return [
        weight.new_zeros(weight.shape[:1]) if bias is None else bias
        for weight, bias in zip(weights, biases, strict=True)
    ]


@accepts_arrays("x", "w_hw", "w_w", "w_h", "b_hw", "b_w", "b_h")
def inception_dwconv(
    x: Array,
    w_hw: Array,
    w_w: Array,
    w_h: Array,
    b_hw: Array | None = None,
    b_w: Array | None = None,
    b_h: Array | None = None,
) -> Array:
    """The Inception mixer: channels [identity (C - 3g), hw (g), w (g), h (g)] of ``x``.

    The first C - 3g channels are copied, the three groups behind them are convolved with stride 1
    and zero padding that keeps the size.

    Parameters
    ----------
    x : images [N, C, H, W], contiguous or channels last, or [N, C/b, H, W, b] in blocks of b
        channels; float32, float64, float16 or bfloat16
    w_hw : [g, 1, s, s], s odd
    w_w : [g, 1, 1, b], along the width, b odd
    w_h : [g, 1, b, 1], along the height
    b_hw, b_w, b_h : biases [g], or None for zeros

    Returns images of ``x``'s shape, type and memory format. Differentiable in all of them to any
    order. Raises ValueError for shapes and types that do not fit. Paper: section 3.2.
    """
    biases = _biases((w_hw, w_w, w_h), (b_hw, b_w, b_h))
    return torch.ops.einkorn.inception_dwconv(x, w_hw, w_w, w_h, *biases)


@accepts_arrays("x", "w_hw", "w_w", "w_h", "b_hw", "b_w", "b_h")
def inception_dwconv_branches(
    x: Array,
    w_hw: Array,
    w_w: Array,
    w_h: Array,
    b_hw: Array | None = None,
    b_w: Array | None = None,
    b_h: Array | None = None,
) -> Array:
    """The last 3g channels of :func:`inception_dwconv` alone, [N, 3g, H, W].

    For a following operator that reads the identity channels from ``x`` itself.
    """
    biases = _biases((w_hw, w_w, w_h), (b_hw, b_w, b_h))
    return torch.ops.einkorn.inception_dwconv_branches(x, w_hw, w_w, w_h, *biases)


# What networks are made of


@dataclass(frozen=True)
class NetworkConfig:
    """The parts of an InceptionNeXt or ConvNeXt; the defaults are those of tiny."""

    frame: str = "metanext"
    """``"metanext"`` (BatchNorm, MLP head) or ``"convnext"`` (LayerNorm, linear head)."""
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    mlp_ratios: tuple[float, ...] = (4.0, 4.0, 4.0, 3.0)
    mixer: str = "inception"
    """``"inception"``, ``"depthwise"`` or ``"identity"``."""
    branch_ratio: float = 0.125
    """Share of the channels in each Inception branch, in (0, 1/3]."""
    square_size: int = 3
    band_size: int = 11
    kernel_size: int = 7
    """Of the depthwise mixer. All kernel sizes are odd."""
    convolved_share: float = 1.0
    """Share of the channels, the last ones, that the depthwise mixer convolves; in (0, 1]."""
    in_channels: int = 3
    classes: int = 1000
    drop_path: float = 0.0
    """Rate of stochastic depth in the last block, growing linearly from 0 in the first; [0, 1)."""
    head_dropout: float = 0.0
    layer_scale: float = 1e-6
    resolution: int = 224
    """Side of the images that :func:`image_input` makes, in pixels."""
    crop_share: float = 0.875
    """Share of an image's shorter side that :func:`image_input` keeps."""


class StageCount(NamedTuple):
    """One stage: its blocks, its map, and the exact cost of one block."""

    blocks: int
    height: int
    width: int
    channels: int
    branch_channels: int
    identity_channels: int
    hidden: int
    mixer_parameters: int
    mixer_macs: int
    block_parameters: int
    block_macs: int


class Count(NamedTuple):
    """Parameters and multiply-adds (of convolutions and linear layers) of a network."""

    parameters: int
    macs: int
    stages: list[StageCount]


class ClassifiedImage(NamedTuple):
    """The most probable classes of an image, best first."""

    classes: list[int]
    probabilities: list[float]


def config_names() -> list[str]:
    """The names that :func:`named_config` knows."""
    return _inceptionnext.config_names()


def named_config(name: str, **changes: Any) -> NetworkConfig:
    """atto, tiny, small, base, base-384, convnext-tiny or toy, with some fields changed.

    Raises ValueError for other names.
    """
    return replace(_from_fields(_inceptionnext.named_config(name)), **changes)


def describe(
    model: str | NetworkConfig, height: int | None = None, width: int | None = None
) -> Count:
    """Exact counts for images of height x width (default: the network's resolution, square)."""
    config = _as_config(model)
    height = config.resolution if height is None else height
    found = _inceptionnext.count(asdict(config), height, height if width is None else width)
    stages = [StageCount(**stage) for stage in found["stages"]]
    return Count(found["parameters"], found["macs"], stages)


def _from_fields(fields: dict[str, Any]) -> NetworkConfig:
    return NetworkConfig(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
    )


def _as_config(model: str | NetworkConfig) -> NetworkConfig:
    return named_config(model) if isinstance(model, str) else model


# Networks


class Network(torch.nn.Module):
    """A trainable network. ``state_dict()`` has timm's key names.

    Parameters
    ----------
    model : a name that :func:`named_config` knows, or a :class:`NetworkConfig`
    changes : fields of the config to change, as ``classes=10``

    Weights are drawn from torch's current generator: normal with standard deviation 0.02, biases 0,
    norms 1 and 0, layer scales ``layer_scale``. Raises ValueError for configs that make no network.
    """

    def __init__(self, model: str | NetworkConfig = "tiny", **changes: Any):
        super().__init__()
        config = replace(_as_config(model), **changes)
        self._adopt(_inceptionnext.Network(asdict(config)))

    def _adopt(self, network: Any) -> None:
        # The tensors themselves are shared with the C++ network, under modules of the same names.
        self._network = network
        self.config = _from_fields(network.config())
        for name, tensor in network.parameters():
            owner, leaf = self._owner(name)
            # What makes a tensor a torch.nn.Parameter without a copy of it.
            tensor._is_param = True
            owner.register_parameter(leaf, tensor)
        for name, tensor in network.buffers():
            owner, leaf = self._owner(name)
            owner.register_buffer(leaf, tensor)
        self.train(True)

    def _owner(self, name: str) -> tuple[torch.nn.Module, str]:
        *path, leaf = name.split(".")
        owner: torch.nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        return owner, leaf

    def _apply(self, fn: Any, recurse: bool = True) -> "Network":
        # In place, so that the C++ network sees new devices and types as well.
        for tensor in [*self.parameters(), *self.buffers()]:
            tensor.data = fn(tensor.data)
            if tensor.grad is not None:
                tensor.grad.data = fn(tensor.grad.data)
        return self

    def train(self, mode: bool = True) -> "Network":
        """Sets training mode (batch statistics, drop path, dropout) or evaluation mode."""
        self._network.train(mode)
        return super().train(mode)

    @accepts_arrays("images")
    def forward(self, images: Array) -> Array:
        """Logits [N, classes] of images [N, in_channels, H, W] of the parameters' type.

        Raises ValueError for other channels, and for images so small that a stage has no pixels.
        """
        return self._network.forward(images)

    @accepts_arrays("images")
    def mixed_precision_forward(self, images: Array, dtype: torch.dtype = torch.bfloat16) -> Array:
        """Logits of a training pass on CUDA with activations of ``dtype``.

        Parameters, their gradients and all sums stay float32; between two matrix products a block
        makes one pass over memory. ``dtype`` is bfloat16, float16 or float32. Differentiable in the
        parameters. Raises ValueError for other types, off CUDA, and in evaluation mode.
        """
        return self._network.mixed_precision_forward(images, dtype)

    @accepts_arrays("images")
    def features(self, images: Array) -> tuple[Array, ...]:
        """The outputs of the stages, at strides 4, 8, 16 and 32."""
        return tuple(self._network.features(images))

    def fold(self) -> "FoldedNetwork":
        """The network for inference, norms and layer scales folded into the layers beside them.

        Raises ValueError for frames with LayerNorm, which cannot be folded.
        """
        return FoldedNetwork(self._network.fold())

    def save(self, path: Path, *, force: bool = False) -> None:
        """Writes a safetensors file under timm's key names, with the config as metadata.

        Raises OSError if the file exists, unless ``force``.
        """
        self._network.save(os.fspath(path), force)

    @accepts_arrays("images")
    def receptive_field(self, images: Array) -> Array:
        """Effective receptive field [H, W] of the last stage's middle pixel, at most 1.

        The mean absolute gradient over images and channels (Luo et al. 2016).
        """
        return self._network.receptive_field(images)

    def spatial_kernels(self) -> dict[str, torch.Tensor]:
        """Every block's spatial kernels by name: [channels, height, width]."""
        return self._network.spatial_kernels()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Network":
        other = _network_of(asdict(self.config))
        other._copy_state_of(self)
        memo[id(self)] = other
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        return _network_of, (asdict(self.config),), (self.training, self.state_dict())

    def __setstate__(self, state: tuple[bool, dict[str, torch.Tensor]]) -> None:
        training, tensors = state
        self._take(tensors)
        self.train(training)

    def _copy_state_of(self, other: "Network") -> None:
        self._take(copy.deepcopy(other.state_dict()))
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            mine.requires_grad_(theirs.requires_grad)
        self.train(other.training)

    def _take(self, tensors: dict[str, torch.Tensor]) -> None:
        # Devices and types too, which load_state_dict would convert.
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            tensor.data = tensors[name]

    def __repr__(self) -> str:
        return f"Network({self.config})"


def _network_of(fields: dict[str, Any]) -> Network:
    return Network(_from_fields(fields))


class FoldedNetwork:
    """A network for inference without norms and layer scales; made by ``Network.fold``.

    On the CPU in float32 its blocks read the mixer's identity channels where they lie.
    """

    def __init__(self, network: Any):
        self._network = network
        self.config = _from_fields(network.config())

    @accepts_arrays("images")
    def __call__(self, images: Array) -> Array:
        """Logits [N, classes] of images [N, in_channels, H, W]; see :meth:`Network.forward`."""
        return self._network.forward(images)

    @accepts_arrays("images")
    def features(self, images: Array) -> tuple[Array, ...]:
        """The outputs of the stages, at strides 4, 8, 16 and 32."""
        return tuple(self._network.features(images))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The folded weights, under timm's key names without norms and layer scales."""
        return self._network.state()

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "FoldedNetwork":
        """Moves the weights in place to a device, a floating-point type, or both."""
        now = self.state_dict()["stem.0.weight"]
        self._network.to(torch.device(device or now.device), dtype or now.dtype)
        return self

    def save(self, path: Path, *, force: bool = False) -> None:
        """Writes a safetensors file; raises OSError if it exists, unless ``force``."""
        self._network.save(os.fspath(path), force)

    def __repr__(self) -> str:
        return f"FoldedNetwork({self.config})"


def load(
    path: Path, model: str | NetworkConfig | None = None, *, transfer: bool = False
) -> Network | FoldedNetwork:
    """Reads a network, folded or not, from a safetensors file under timm's key names.

    Parameters
    ----------
    model : name or config, for files that do not say what network they are for
    transfer : adapt the weights to ``model`` where its classes (the classifier keeps its fresh
        weights) or input channels (the stem sums or repeats them, as timm does) differ

    Raises OSError for files that cannot be read and weights that do not fit or are not finite.
    """
    fields = None if model is None else asdict(_as_config(model))
    found = _inceptionnext.load(os.fspath(path), fields, transfer)
    if isinstance(found, _inceptionnext.FoldedNetwork):
        return FoldedNetwork(found)
    network = Network.__new__(Network)
    torch.nn.Module.__init__(network)
    network._adopt(found)
    return network.eval()


def fold(network: Network) -> FoldedNetwork:
    """``network.fold()``."""
    return network.fold()


# Images


def read_image(path: Path) -> torch.Tensor:
    """A PNG, JPEG, BMP, PNM or .npy file as [3, height, width] uint8. Raises OSError."""
    return _inceptionnext.read_image(os.fspath(path))


@accepts_arrays("image")
def image_input(
    image: Array, model: str | NetworkConfig, *, resolution: int | None = None
) -> Array:
    """[1, in_channels, resolution, resolution] float32 of an image [3, height, width] uint8.

    Bicubic resize, centre crop and normalisation, as torchvision and timm do on PIL images.
    """
    config = _as_config(model)
    return _inceptionnext.image_input(image, asdict(config), resolution or config.resolution)


def classify(
    network: Network | FoldedNetwork,
    images: Sequence[Path | Array],
    *,
    top: int = 5,
    resolution: int | None = None,
) -> list[ClassifiedImage]:
    """The ``top`` most probable classes of each image, given as a file or [3, H, W] uint8.

    Runs in evaluation mode, one image at a time. Raises ValueError for ``top`` < 1.
    """
    if top < 1:
        raise ValueError(f"top: expected a number >= 1, got {top}")
    if isinstance(network, Network) and network.training:
        network.eval()
        try:
            return classify(network, images, top=top, resolution=resolution)
        finally:
            network.train()
    weight = network.state_dict()["stem.0.weight"]
    found = []
    for image in images:
        pixels = read_image(image) if isinstance(image, (str, os.PathLike)) else image
        inputs = torch.as_tensor(image_input(pixels, network.config, resolution=resolution))
        with torch.no_grad():
            logits = network(inputs.to(weight.device, weight.dtype))
        best = logits.float().softmax(1)[0].topk(min(top, network.config.classes))
        found.append(ClassifiedImage(best.indices.tolist(), best.values.tolist()))
    return found
