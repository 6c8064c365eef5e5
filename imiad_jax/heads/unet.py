"""DRAEM's two networks: an auto-encoder that restores images and a U-Net that marks what it did.

Zavrtanik, Kristan, Skocaj, ICCV 2021, arXiv 2108.07610; layer by layer the authors' code, but for
the biases before batch norm: it takes them away, so that their gradient is rounding, of which Adam
makes steps. Images are [b,h,w,c] with sides that can be halved as often as the network does, 4 and
5 times. `valid` [b] tells which images of a batch are there, None means evaluation.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Bool, Float

from imiad_jax.heads.layers import Conv, Norm


def begin(key: Array, net: nn.Module, channels: int) -> Any:
  """Returns the variables a network begins with, as the authors' code draws them.

  Kernels are N(0, 0.02), scales of batch norm N(1, 0.02) and its biases 0; those of the last layer
  are PyTorch's, U(+-1/sqrt(fan in)). All come from one draw: one for each would compile slowly.
  """
  image = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
  shapes: Any = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, None), image)
  params: dict[Any, Any] = traverse_util.flatten_dict(shapes["params"])
  noise = jax.random.normal(key, (sum(x.size for x in params.values()),))
  made, at = {}, 0
  for path, x in params.items():
    drawn = noise[at : at + x.size].reshape(x.shape)
    at += x.size
    beside = params.get((*path[:-1], "kernel"))
    if path[-1] == "kernel":
      made[path] = 0.02 * drawn
    elif path[-1] == "scale":
      made[path] = 1 + 0.02 * drawn
    elif beside is not None:  # erf makes uniform numbers of normal ones
      made[path] = jax.lax.erf(drawn / 2**0.5) / np.prod(beside.shape[:3]) ** 0.5
    else:
      made[path] = jnp.zeros(x.shape)
  averages: dict[Any, Any] = traverse_util.flatten_dict(shapes["batch_stats"])
  averages = {k: jnp.full(x.shape, float(k[-1] == "var")) for k, x in averages.items()}
  return {
    "params": traverse_util.unflatten_dict(made),
    "batch_stats": traverse_util.unflatten_dict(averages),
  }


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Maximum of each 2x2 cell."""
  x = jnp.maximum(x[:, ::2], x[:, 1::2])
  return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Bilinear interpolation to twice the size whose corners stay (align_corners=True)."""
  for axis in (1, 2):
    n = x.shape[axis]
    # Output 2i lies i / (2n - 1) before cell i, output 2i + 1 as far behind as its mirror image
    # before; at the ends that is 0, so what the roll brings there does not count.
    back = np.arange(n, dtype=np.float32).reshape(-1, *[1] * (3 - axis)) / (2 * n - 1)
    even = x + (jnp.roll(x, 1, axis) - x) * back
    odd = x + (jnp.roll(x, -1, axis) - x) * back[::-1]
    x = jnp.stack([even, odd], axis + 1).reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
  return x


class Block(nn.Module):
  """A chain of 3x3 convolutions to `widths` channels, each followed by batch norm and ReLU."""

  widths: tuple[int, ...]

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b h w d"]:
    """Returns the last activation."""
    for i, width in enumerate(self.widths):
      x = Conv(width, 3, padding=1, bias=False, name=f"conv{i}")(x)
      x = jax.nn.relu(Norm(name=f"norm{i}")(x, valid))
    return x


class Restorer(nn.Module):
  """The reconstructive network: no skips, linear output; base width `width` (the paper: 128)."""

  width: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w 3"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b h w 3"]:
    """Returns the image without what does not belong there."""
    b = self.width
    for i, d in enumerate((b, 2 * b, 4 * b, 8 * b, 8 * b)):
      x = Block((d, d), name=f"down{i}")(x if i == 0 else halve(x), valid)
    for i, (c, d) in enumerate(((8 * b, 4 * b), (4 * b, 2 * b), (2 * b, b), (b, b))):
      x = Block((c, c, d), name=f"up{i}")(double(x), valid)
    return Conv(3, 3, padding=1, name="out")(x)


class Segmenter(nn.Module):
  """The discriminative network: a U-Net to two logits; base width `width` (the paper: 64)."""

  width: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b h w 2"]:
    """Returns the logits of normal and anomalous."""
    b = self.width
    skips = []
    for i, d in enumerate((b, 2 * b, 4 * b, 8 * b, 8 * b, 8 * b)):
      x = Block((d, d), name=f"down{i}")(x if i == 0 else halve(x), valid)
      skips.append(x)
    for i, d in enumerate((8 * b, 4 * b, 2 * b, b, b)):
      x = Block((d,), name=f"up{i}")(double(x), valid)
      x = Block((d, d), name=f"merge{i}")(jnp.concatenate([x, skips[-2 - i]], -1), valid)
    return Conv(2, 3, padding=1, name="out")(x)
