"""VGG-16 (Simonyan & Zisserman 2014, arXiv 1409.1556), pretrained on ImageNet.

As torchvision has it, without batch norm. Differs in that the three fully connected layers, nine
tenths of the file, are left out: they take images of one size alone. torchvision's file and timm's
copy of it are both read.

Parameters by top-level key: stem (stride 2), layer1 to layer3 (strides 4 to 16), each with its
convolutions by the name that the paper gives them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from imiad_jax import images, plugins, weights
from imiad_jax.backbones import common
from imiad_jax.backbones.common import Conv, Source

VARIANTS = {
  "vgg16": Source(
    files={"vgg16-397923af.pth": "397923af"},
    origin="https://download.pytorch.org/models/",
    repos=("timm/vgg16.tv_in1k",),
  )
}

# Convolutions of each part by name, with their channels; "pool" halves the grid.
_PARTS = {
  "stem": (("conv1_1", 64), ("conv1_2", 64), ("pool", 0), ("conv2_1", 128), ("conv2_2", 128)),
  "layer1": (("pool", 0), ("conv3_1", 256), ("conv3_2", 256), ("conv3_3", 256)),
  "layer2": (("pool", 0), ("conv4_1", 512), ("conv4_2", 512), ("conv4_3", 512)),
  "layer3": (("pool", 0), ("conv5_1", 512), ("conv5_2", 512), ("conv5_3", 512)),
}
# The fully connected layers, which are not read: names and shapes of torchvision, then of timm.
_CONNECTED = (
  {
    "classifier.0": (4096, 512 * 7 * 7),
    "classifier.3": (4096, 4096),
    "classifier.6": (1000, 4096),
  },
  {
    "pre_logits.fc1": (4096, 512, 7, 7),
    "pre_logits.fc2": (4096, 4096, 1, 1),
    "head.fc": (1000, 4096),
  },
)


class Part(nn.Module):
  """The convolutions of one stride, each with its ReLU."""

  layers: tuple[tuple[str, int], ...]

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    """Returns the last activation of the part."""
    for name, channels in self.layers:
      x = _halve(x) if name == "pool" else jax.nn.relu(Conv(channels, 3, name=name)(x))
    return x


class Model(nn.Module):
  """VGG. `variant` is a name in VARIANTS."""

  variant: str

  @nn.compact
  def __call__(self, image: Float[Array, "b h w 3"]) -> dict[str, jax.Array]:
    """Returns every stage by name of images in [0,1].

    The last ReLU of each stride, [b,h/s,w/s,c]: "stem" is conv2_2 (s = 2, c = 128), "layer1"
    conv3_3 (4, 256), "layer2" conv4_3 (8, 512), "layer3" conv5_3 (16, 512), and "layer4" the last
    pooling after it (32, 512); "embedding": [b,512], the mean of that.
    """
    plugins.check("backbone", self.variant, VARIANTS)
    x = images.standardise(image)
    stages = {}
    for name, layers in _PARTS.items():
      x = stages[name] = Part(layers, name=name)(x)
    stages["layer4"] = _halve(x)
    return {**stages, "embedding": jnp.mean(stages["layer4"], (1, 2))}


def load(variant: str, path: str | None = None) -> tuple[dict[str, Any], str]:
  """Returns the parameters of a variant, nested NumPy float32, and the sha256 of their file.

  The file is `path`, else one in the weights folder, else fetched by huggingface_hub where that is
  installed. Raises UserError when there is none, or when it is damaged or another model's.
  """
  plugins.check("backbone", variant, VARIANTS)
  state, file, digest = common.read(variant, VARIANTS[variant], path)
  names = _names()
  connected = next((n for n in _CONNECTED if n.keys() & {k.rpartition(".")[0] for k in state}), {})
  weights.check(state, _tensors({n: shape for n, _, _, shape in names} | connected), (), file)
  params: dict[str, Any] = {}
  for name, part, layer, _ in names:
    kernel = np.transpose(state[f"{name}.weight"], (2, 3, 1, 0))
    params.setdefault(part, {})[layer] = {
      "kernel": np.ascontiguousarray(kernel, np.float32),
      "bias": np.array(state[f"{name}.bias"], np.float32),
    }
  return params, digest


def _halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _names() -> list[tuple[str, str, str, tuple[int, ...]]]:
  """Returns each convolution: its name in the file, part, own name, shape of its weight there."""
  out, channels, place = [], 3, 0
  for part, layers in _PARTS.items():
    for layer, features in layers:
      if layer == "pool":
        place += 1
        continue
      out.append((f"features.{place}", part, layer, (features, channels, 3, 3)))
      channels, place = features, place + 2  # its ReLU has a number too
  return out


def _tensors(layers: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every tensor of layers with a weight and a bias."""
  weight = {f"{name}.weight": shape for name, shape in layers.items()}
  return weight | {f"{name}.bias": shape[:1] for name, shape in layers.items()}
