"""EfficientNet-B5 (Tan and Le 2019, arXiv 1905.11946): swish and squeeze-and-excitation.

The weights are Google's, as converted by L. Melas-Kyriazi for efficientnet_pytorch 0.7.1, which
CS-Flow's authors use; timm's tf_efficientnet_b5 is another file and is not read. That package fixes
the padding of every stride for images of 456 x 456 and keeps it for all others; so does this, to
give the features that the authors had. Batch norm is folded into the convolutions.

Parameters by top-level key: stem (stride 2), layer1 to layer3 (strides 4 to 16), block35 and layer4
(stride 32), head, classifier.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imiad_jax import images, plugins, weights
from imiad_jax.backbones import common
from imiad_jax.backbones.common import Conv, Head, Layer, Source

VARIANTS = {
  "efficientnet_b5": Source(
    files={"efficientnet-b5-b6417697.pth": "b6417697"},
    origin="https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/",
  )
}

# Repeats, kernel size, stride, expansion, channels.
_PARTS = {
  "stem": ((3, 3, 1, 1, 24),),
  "layer1": ((5, 3, 2, 6, 40),),
  "layer2": ((5, 5, 2, 6, 64),),
  "layer3": ((7, 3, 2, 6, 128), (7, 5, 1, 6, 176)),
  "block35": ((9, 5, 2, 6, 304),),
  "layer4": ((3, 3, 1, 6, 512),),
}
# Parts whose first block meets an odd grid when the image is 456 x 456: 57 and 29 cells.
_ODD = ("layer3", "block35")
_STEM, _HEAD = 48, 2048
_EPS = 1e-3  # of the folded batch norm


class Block(nn.Module):
  """An inverted residual: expand, convolve each channel, weigh the channels, project.

  A stride of 2 keeps every second cell of the grid, beginning with the one at `first`.
  """

  size: int
  stride: int
  first: int
  expansion: int
  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the block's output; with the input added where the shapes allow it."""
    y, channels = x, x.shape[-1]
    wide = channels * self.expansion
    if self.expansion != 1:
      y = nn.swish(Conv(wide, 1, name="expand")(y))
    y = Conv(wide, self.size, depthwise=True, name="depthwise")(y)
    y = nn.swish(y[:, self.first :: self.stride, self.first :: self.stride])
    weight = nn.swish(nn.Dense(channels // 4, name="squeeze")(jnp.mean(y, (1, 2))))
    weight = nn.sigmoid(nn.Dense(wide, name="excite")(weight))
    y = Conv(self.features, 1, name="project")(y * weight[:, None, None])
    return x + y if self.stride == 1 and channels == self.features else y


class Part(nn.Module):
  """Successive blocks; the stem has a convolution before them."""

  blocks: tuple[tuple[int, int, int, int, int], ...]
  stem: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    """Returns the last activation of the part."""
    if self.stem:
      x = nn.swish(Conv(_STEM, 3, 2, name="conv")(x))
    for i, block in enumerate(self.blocks):
      x = Block(*block, name=f"block{i}")(x)
    return x


class Model(nn.Module):
  """EfficientNet-B5. `variant` is a name in VARIANTS."""

  variant: str

  @nn.compact
  def __call__(self, image: Float[Array, "b h w 3"]) -> dict[str, jax.Array]:
    """Returns every stage by name of images in [0,1] with even sides.

    "stem", "layer1" to "layer4": [b,h/s,w/s,c] for s = 2, 4, 8, 16, 32 and c = 24, 40, 64, 176,
    512; "block35": [b,h/32,w/32,304], the output of the block of this number, counted from 0;
    "embedding": [b,2048]; "logits": [b,1000] where there is a classifier.
    """
    x = images.standardise(image)
    stages = {}
    for name, blocks in _parts().items():
      x = stages[name] = Part(blocks, stem=name == "stem", name=name)(x)
    x = nn.swish(Conv(_HEAD, 1, name="head")(x))
    embedding = jnp.mean(x, (1, 2))
    return {**stages, "embedding": embedding, **common.classify(self, embedding)}


def load(variant: str, path: str | None = None) -> tuple[dict[str, Any], str]:
  """Returns the parameters of a variant, nested NumPy float32, and the sha256 of their file.

  `path` is a state dict of efficientnet_pytorch's; without it the official file is looked for.
  Raises UserError when the file is missing, damaged or of another model.
  """
  plugins.check("backbone", variant, VARIANTS)
  state, file, digest = common.read(variant, VARIANTS[variant], path)
  dense = {name: array for name, array in state.items() if "._se_" in name}
  others = {name: array for name, array in state.items() if name not in dense}
  params = common.fold(others, _layers(), _EPS, Head("_fc", _HEAD), file)
  shapes = {}
  for _, name, i, o in _squeezes():
    shapes |= {f"{name}.weight": (o, i, 1, 1), f"{name}.bias": (o,)}
  weights.check(dense, shapes, (), file)
  for (part, block, layer), name, _, _ in _squeezes():
    kernel = np.ascontiguousarray(dense[f"{name}.weight"][..., 0, 0].T, np.float32)
    bias = np.array(dense[f"{name}.bias"], np.float32)
    params[part][block][layer] = {"kernel": kernel, "bias": bias}
  return params, digest


def _parts() -> dict[str, tuple[tuple[int, int, int, int, int], ...]]:
  """Returns the blocks (kernel size, stride, first, expansion, channels) of every part."""
  parts = {}
  for part, groups in _PARTS.items():
    blocks = []
    for repeats, size, stride, expansion, channels in groups:
      first = stride - 1 if part not in _ODD else 0
      blocks += [(size, stride, first, expansion, channels)]
      blocks += [(size, 1, 0, expansion, channels)] * (repeats - 1)
    parts[part] = tuple(blocks)
  return parts


def _numbered() -> list[tuple[str, str, int, int, int, int]]:
  """Returns part, block, kernel size, channels in, expanded and out of every block in order."""
  found, channels = [], _STEM
  for part, blocks in _parts().items():
    for i, (size, _, _, expansion, features) in enumerate(blocks):
      found.append((part, f"block{i}", size, channels, channels * expansion, features))
      channels = features
  return found


def _layers() -> list[Layer]:
  """Returns every convolution with a batch norm, with its names in the weight file."""
  layers = [Layer("stem/conv", "_conv_stem", "_bn0", (3, 3, 3, _STEM))]
  for number, (part, block, size, channels, wide, features) in enumerate(_numbered()):
    at, of = f"{part}/{block}", f"_blocks.{number}"
    if wide != channels:
      kernel = (1, 1, channels, wide)
      layers.append(Layer(f"{at}/expand", f"{of}._expand_conv", f"{of}._bn0", kernel))
    kernel = (size, size, 1, wide)
    layers.append(Layer(f"{at}/depthwise", f"{of}._depthwise_conv", f"{of}._bn1", kernel))
    kernel = (1, 1, wide, features)
    layers.append(Layer(f"{at}/project", f"{of}._project_conv", f"{of}._bn2", kernel))
  layers.append(Layer("head", "_conv_head", "_bn1", (1, 1, features, _HEAD)))
  return layers


def _squeezes() -> list[tuple[tuple[str, str, str], str, int, int]]:
  """Returns path, name in the weight file, inputs and outputs of the layers without batch norm."""
  found = []
  for number, (part, block, _, channels, wide, _) in enumerate(_numbered()):
    few, of = channels // 4, f"_blocks.{number}"
    found.append(((part, block, "squeeze"), f"{of}._se_reduce", wide, few))
    found.append(((part, block, "excite"), f"{of}._se_expand", few, wide))
  return found
