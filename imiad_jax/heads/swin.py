"""A Swin transformer on one grid: attention within windows, every other time of shifted windows.

Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, ICCV 2021, arXiv 2103.14030, but no patches are merged.
Notation: a grid x [b,h,w,c]; a window has s x s cells, of which the grid has v windows.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_START = nn.initializers.truncated_normal(0.02)


def windows(x: Float[Array, "b h w c"], s: int) -> Float[Array, "b v t c"]:
  """Cuts grids into windows."""
  b, h, w, c = x.shape
  return x.reshape(b, h // s, s, w // s, s, c).swapaxes(2, 3).reshape(b, -1, s * s, c)


def joined(x: Float[Array, "b v t c"], shape: tuple[int, ...], s: int) -> Float[Array, "b h w c"]:
  """Returns the grids, of `shape` (b, h, w, c), that were cut into windows."""
  b, h, w, c = shape
  return x.reshape(b, h // s, w // s, s, s, c).swapaxes(2, 3).reshape(shape)


def side(height: int, width: int, most: int) -> int:
  """Returns the largest side of a window, at most `most`, that fits a grid."""
  return max(s for s in range(1, most + 1) if height % s == 0 and width % s == 0)


def _relative(s: int) -> np.ndarray:
  """[s*s,s*s] int: which of (2s-1)^2 displacements there is between two cells of a window."""
  y, x = np.divmod(np.arange(s * s), s)
  return (y[:, None] - y + s - 1) * (2 * s - 1) + x[:, None] - x + s - 1


def _apart(height: int, width: int, s: int, shift: int) -> np.ndarray:
  """[v,s*s,s*s] bool: which cells of a shifted window were not neighbours before the shift."""
  rows, columns = (
    np.digitize(np.arange(n), [n - s, n - shift]) if shift else np.zeros(n, int)
    for n in (height, width)
  )
  part = (3 * rows[:, None] + columns).reshape(height // s, s, width // s, s)
  part = part.swapaxes(1, 2).reshape(-1, s * s)
  return part[:, :, None] != part[:, None]


class Block(nn.Module):
  """Attention within windows, then two linear maps, each behind a layer norm and added to x."""

  heads: int
  window: int
  shift: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns a grid of the same shape."""
    (b, h, w, c), s = x.shape, self.window

    def dense(features: int, name: str) -> nn.Dense:
      return nn.Dense(features, kernel_init=_START, name=name)

    y = nn.LayerNorm(epsilon=1e-5, name="norm0")(x)
    y = windows(jnp.roll(y, (-self.shift, -self.shift), (1, 2)), s)
    y = dense(3 * c, "qkv")(y).reshape(b, -1, s * s, 3, self.heads, c // self.heads)
    query, key, value = jnp.moveaxis(y, (3, 4), (0, 2))  # each [b,heads,v,s*s,d]
    table = jnp.asarray(self.param("bias", _START, ((2 * s - 1) ** 2, self.heads)))
    logits = query @ key.swapaxes(-1, -2) * query.shape[-1] ** -0.5
    logits += jnp.moveaxis(table[_relative(s)], -1, 0)[:, None]
    logits = jnp.where(_apart(h, w, s, self.shift), -1e9, logits)
    y = jnp.moveaxis(nn.softmax(logits) @ value, 1, 3).reshape(b, -1, s * s, c)
    y = jnp.roll(joined(dense(c, "out")(y), x.shape, s), (self.shift, self.shift), (1, 2))
    x += y
    y = nn.LayerNorm(epsilon=1e-5, name="norm1")(x)
    return x + dense(c, "down")(nn.gelu(dense(4 * c, "up")(y), approximate=False))


class Swin(nn.Module):
  """A linear map of each cell to `width` numbers, blocks, and a linear map to `classes` logits.

  Without the layer norm that usually comes last: it would hide how large the numbers are.
  """

  width: int
  blocks: int
  heads: int
  window: int  # largest side
  classes: int = 2

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w classes"]:
    """Returns logits of each cell."""
    s = side(x.shape[1], x.shape[2], self.window)
    x = nn.Dense(self.width, name="embed")(x)
    for i in range(self.blocks):
      fits = x.shape[1] > s or x.shape[2] > s  # one window alone cannot be shifted
      shift = s // 2 if i % 2 and fits else 0
      x = Block(self.heads, s, shift, name=f"block{i}")(x)
    return nn.Dense(self.classes, kernel_init=_START, name="head")(x)
