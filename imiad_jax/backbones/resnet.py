"""ResNet-18, 34 and 50 (He et al. 2015, arXiv 1512.03385) and Wide ResNet-50-2 (Zagoruyko 2016).

As torchvision has them, which the methods here used: the stride of a bottleneck is in its 3x3
convolution, and Wide ResNet-50-2 (arXiv 1605.07146) doubles that convolution's channels. Here batch
norm is folded into the convolutions. torchvision's files and timm's copies of them are both read.

Parameters by top-level key: stem (stride 2), layer1 to layer4 (strides 4 to 32), classifier.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from imiad_jax import images, plugins
from imiad_jax.backbones import common
from imiad_jax.backbones.common import Conv, Head, Layer, Source

_ORIGIN = "https://download.pytorch.org/models/"
# The first of each is the older recipe, which the papers of this field used.
_FILES = {
  "resnet18": ("f37072fd",),
  "resnet34": ("b627a593",),
  "resnet50": ("0676ba61", "11ad3fa6"),
  "wide_resnet50_2": ("95faca4d", "9ba9bcbe"),
}
_REPOS = {
  "resnet18": ("timm/resnet18.tv_in1k",),
  "resnet34": ("timm/resnet34.tv_in1k",),
  "resnet50": ("timm/resnet50.tv_in1k", "timm/resnet50.tv2_in1k"),
  "wide_resnet50_2": (
    "timm/wide_resnet50_2.tv_in1k",
    "timm/wide_resnet50_2.tv2_in1k",
    "timm/wide_resnet50_2.racm_in1k",
  ),
}
VARIANTS = {
  variant: Source({f"{variant}-{d}.pth": d for d in digests}, _ORIGIN, _REPOS[variant])
  for variant, digests in _FILES.items()
}

# Blocks of the four layers; how many times wider a block's output and its middle are than 64, 128,
# 256, 512. A block with an output as wide as its middle is a basic one, without bottleneck.
_SHAPES = {
  "resnet18": ((2, 2, 2, 2), 1, 1),
  "resnet34": ((3, 4, 6, 3), 1, 1),
  "resnet50": ((3, 4, 6, 3), 4, 1),
  "wide_resnet50_2": ((3, 4, 6, 3), 4, 2),
}
_EPS = 1e-5  # of the folded batch norm


class Block(nn.Module):
  """A residual block of the convolutions (kernel size, stride, channels) given."""

  convs: tuple[tuple[int, int, int], ...]
  downsample: bool
  eps: float | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
  ) -> Float[Array, "b h2 w2 d"]:
    """Returns the block's output, the input or a 1x1 convolution of it added."""
    conv = partial(Conv, padding="TORCH", eps=self.eps)
    y = x
    for i, (size, stride, features) in enumerate(self.convs, start=1):
      y = y if i == 1 else jax.nn.relu(y)
      y = conv(features, size, stride, name=f"conv{i}")(y, valid)
    if self.downsample:
      stride = max(stride for _, stride, _ in self.convs)
      x = conv(y.shape[-1], 1, stride, name="downsample")(x, valid)
    return jax.nn.relu(x + y)


class Part(nn.Module):
  """The blocks of one stride."""

  blocks: tuple[tuple[tuple[tuple[int, int, int], ...], bool], ...]
  eps: float | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None = None
  ) -> Float[Array, "b h2 w2 d"]:
    """Returns the last block's output."""
    for i, (convs, downsample) in enumerate(self.blocks):
      x = Block(convs, downsample, self.eps, name=f"block{i}")(x, valid)
    return x


class Model(nn.Module):
  """ResNet. `variant` is a name in VARIANTS.

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

    "stem", "layer1" to "layer4": [b,h/s,w/s,c] for s = 2, 4, 8, 16, 32 and c = 64, then 64, 128,
    256, 512, four times that for the variants with 50 layers; "embedding": [b,512] or [b,2048];
    "logits": [b,1000] where there is a classifier.
    Batch norm takes the statistics of the `valid` images, and the running ones where it is None.
    """
    x = images.standardise(image)
    eps = _EPS if self.norm else None
    x = stem = jax.nn.relu(Conv(64, 7, 2, "TORCH", eps=eps, name="stem")(x, valid))
    around = ((0, 0), (1, 1), (1, 1), (0, 0))  # filled with minus infinity
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), around)
    stages = {"stem": stem}
    for name, blocks in _parts(self.variant).items():
      x = stages[name] = Part(blocks, eps, name=name)(x, valid)
      if self.until and set(self.until) <= stages.keys():
        return stages
    embedding = jnp.mean(x, (1, 2))
    return {**stages, "embedding": embedding, **common.classify(self, embedding)}


def load(variant: str, path: str | None = None) -> tuple[dict[str, Any], str]:
  """Returns the parameters of a variant, nested NumPy float32, and the sha256 of their file.

  The file is `path`, else one in the weights folder, else fetched by huggingface_hub where that is
  installed. Raises UserError when there is none, or when it is damaged or another model's.
  """
  plugins.check("backbone", variant, VARIANTS)
  state, file, digest = common.read(variant, VARIANTS[variant], path)
  head = Head("fc", 512 * _SHAPES[variant][1])
  return common.fold(state, _layers(variant), _EPS, head, file), digest


def _parts(variant: str) -> dict[str, tuple[tuple[tuple[tuple[int, int, int], ...], bool], ...]]:
  """Returns, for every part, the blocks' convolutions and whether the input has to be reshaped."""
  plugins.check("backbone", variant, VARIANTS)
  repeats, growth, width = _SHAPES[variant]
  parts = {}
  for layer, count in enumerate(repeats):
    channels, stride = 64 * 2**layer, 1 if layer == 0 else 2
    blocks = []
    for i in range(count):
      s = stride if i == 0 else 1
      if growth == 1:
        convs = ((3, s, channels), (3, 1, channels))
      else:
        middle = channels * width
        convs = ((1, 1, middle), (3, s, middle), (1, 1, channels * growth))
      blocks.append((convs, i == 0 and (s == 2 or growth != 1)))
    parts[f"layer{layer + 1}"] = tuple(blocks)
  return parts


def _layers(variant: str) -> list[Layer]:
  """Returns every convolution, with its names in the weight file."""
  layers, channels = [Layer("stem", "conv1", "bn1", (7, 7, 3, 64))], 64
  for part, blocks in _parts(variant).items():
    for i, (convs, downsample) in enumerate(blocks):
      at, of, inputs = f"{part}/block{i}", f"{part}.{i}", channels
      for j, (size, _, features) in enumerate(convs, start=1):
        kernel = (size, size, channels, features)
        layers.append(Layer(f"{at}/conv{j}", f"{of}.conv{j}", f"{of}.bn{j}", kernel))
        channels = features
      if downsample:
        name, kernel = f"{of}.downsample", (1, 1, inputs, channels)
        layers.append(Layer(f"{at}/downsample", f"{name}.0", f"{name}.1", kernel))
  return layers
