"""Networks that register feature grids of one category with each other (arXiv 2207.07361).

`valid` [b] tells which images of a batch are there, None means evaluation.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imiad_jax.heads import distil
from imiad_jax.heads.layers import Conv, Norm


class Transformer(nn.Module):
  """A spatial transformer's localisation network: how a grid is to be turned and scaled."""

  widths: tuple[int, int, int] = (64, 16, 1024)

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b 2 3"]:
    """Returns a map of each grid, at first the identity; its scales touch the diagonal alone."""
    for i, width in enumerate(self.widths[:2]):
      x = Conv(width, 3, padding=1, bias=False, name=f"conv{i}")(x)
      x = _pooled(jax.nn.relu(Norm(name=f"norm{i}")(x, valid)))
    x = Conv(self.widths[2], 1, name="hidden")(x.reshape(len(x), 1, 1, -1))
    kernel = self.param("kernel", nn.initializers.zeros, (self.widths[2], 3))
    bias = self.param("bias", lambda _: jnp.array([0.0, 1.0, 1.0]))
    angle, first, second = (jax.nn.relu(x[:, 0, 0]) @ kernel + bias).T
    c, s, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
    rows = ((c * first, -s, zero), (s, c * second, zero))
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1)


class Projector(nn.Module):
  """As many 1x1 convolutions as `depth`, batch norm and ReLU between them."""

  depth: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b h w c"]:
    """Returns a grid of the same shape."""
    for i in range(self.depth):
      x = Conv(x.shape[-1], 1, bias=False, name=f"conv{i}")(x)
      if i + 1 < self.depth:
        x = jax.nn.relu(Norm(name=f"norm{i}")(x, valid))
    return x


def agreement(
  p1: Float[Array, "b h w c"],
  z1: Float[Array, "b h w c"],
  p2: Float[Array, "b h w c"],
  z2: Float[Array, "b h w c"],
) -> Float[Array, " b"]:
  """Returns minus the cosine of each prediction and the other's target, which gets no gradient.

  The mean over cells and both ways, in [-1,1] (SimSiam, arXiv 2011.10566).
  """
  both = distil.cosine(p1, jax.lax.stop_gradient(z2)) + distil.cosine(p2, jax.lax.stop_gradient(z1))
  return jnp.mean(both, axis=(1, 2)) / 2 - 1


def _pooled(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Maximum of 3x3 cells, every second one, as torch's MaxPool2d(3, 2, 1)."""
  h, w = x.shape[1:3]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
  rows = [x[:, i : i + h : 2] for i in range(3)]
  x = jnp.maximum(jnp.maximum(rows[0], rows[1]), rows[2])
  columns = [x[:, :, j : j + w : 2] for j in range(3)]
  return jnp.maximum(jnp.maximum(columns[0], columns[1]), columns[2])
