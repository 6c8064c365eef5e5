"""Networks that describe the cells of an image by their surroundings, or by the whole of the image.

Notation: a pyramid is the stages of a frozen backbone, finest first; its last one is the deep grid,
[b,h,w,c]. A description is [b,h',w',features], on a grid of `shape` (h', w').
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imiad_jax.heads.layers import Conv

Pyramid = list[Float[Array, "b _h _w _c"]]


class Local(nn.Module):
  """Describes each cell from the cells of a finer stage below and around it."""

  shape: tuple[int, int]
  features: int
  width: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the description."""
    for _ in range(round(math.log2(max(1, x.shape[1] / self.shape[0])))):
      x = jax.nn.relu(Conv(self.width, 3, stride=2, padding=1)(x))
    x = jax.nn.relu(Conv(self.width, 3, padding=1)(resized(x, self.shape)))
    return Conv(self.features, 1)(x)


class Decoder(nn.Module):
  """Doubles a grid until it reaches the description's."""

  shape: tuple[int, int]
  features: int
  width: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the description."""
    while x.shape[1:3] != self.shape:
      side = tuple(min(2 * n, most) for n, most in zip(x.shape[1:3], self.shape, strict=True))
      x = jax.nn.relu(Conv(self.width, 3, padding=1)(resized(x, side)))
    return Conv(self.features, 1)(x)


class Bottleneck(nn.Module):
  """Describes an image from one vector of `code` numbers, drawn from its deep grid."""

  shape: tuple[int, int]
  features: int
  width: int
  code: int

  @nn.compact
  def __call__(self, deep: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the description."""
    x = jax.nn.relu(Conv(self.code, 1, name="reduce")(deep))
    code = nn.Dense(self.code, name="encode")(x.reshape(len(deep), -1))
    h, w = (max(1, n // 2) for n in deep.shape[1:3])
    x = nn.Dense(h * w * self.width, name="spread")(code).reshape(-1, h, w, self.width)
    return Decoder(self.shape, self.features, self.width, name="decode")(jax.nn.relu(x))


class Attention(nn.Module):
  """Describes each cell by what it attends to of the whole deep grid, by a query of its own."""

  shape: tuple[int, int]
  features: int
  width: int  # a multiple of `heads`
  heads: int = 4

  @nn.compact
  def __call__(self, deep: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the description."""
    b, h, w, c = deep.shape
    x = nn.Dense(self.width, name="embed")(deep.reshape(b, h * w, c))
    normal, shape = nn.initializers.normal(0.02), (h * w, self.width)
    place, query = (self.param(name, normal, shape) for name in ("place", "query"))
    attend = nn.MultiHeadDotProductAttention(self.heads, name="attend")
    x = attend(jnp.broadcast_to(query, (b, *shape)), x + place, x)
    x = jax.nn.relu(x).reshape(b, h, w, self.width)
    return Decoder(self.shape, self.features, self.width, name="decode")(x)


class Unlimited(nn.Module):
  """Describes each cell from the deep grid as it is: nothing of it is kept back."""

  shape: tuple[int, int]
  features: int
  width: int

  @nn.compact
  def __call__(self, deep: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the description."""
    x = jax.nn.relu(Conv(self.width, 1, name="embed")(deep))
    return Decoder(self.shape, self.features, self.width, name="decode")(x)


class Reader(nn.Module):
  """Describes an image from all of a pyramid: the way up of a U-Net whose way down is given.

  The description is on the grid of the pyramid's first stage.
  """

  features: int
  width: int

  @nn.compact
  def __call__(self, pyramid: Pyramid) -> Float[Array, "b h w features"]:
    """Returns the description."""
    conv = functools.partial(Conv, self.width, 3, padding=1)
    x = jax.nn.relu(Conv(self.width, 1)(pyramid[-1]))
    for skip in reversed(pyramid[:-1]):
      x = jnp.concatenate([resized(x, skip.shape[1:3]), Conv(self.width, 1)(skip)], axis=-1)
      x = jax.nn.relu(conv()(x))
    return Conv(self.features, 1)(jax.nn.relu(conv()(x)))


def resized(x: Float[Array, "b _h _w c"], shape: tuple[int, ...]) -> Float[Array, "b h w c"]:
  """Resizes bilinearly (align_corners=False) to `shape` (h, w)."""
  return jax.image.resize(x, (len(x), *shape, x.shape[-1]), "bilinear", antialias=False)
