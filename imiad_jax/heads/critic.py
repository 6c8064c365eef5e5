"""A decoder of images from a few numbers and a critic of images, both of residual blocks.

Chen, Tian, Pang, Carneiro, AAAI 2022, arXiv 2101.10043; layer by layer the authors' code, and
before it that of WGAN-GP. `widths` are the channels from the coarsest grid to the finest, with one
doubling of the image's side at each, and one more to the image.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from imiad_jax.heads.layers import Conv
from imiad_jax.heads.similarity import halve


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Returns images of twice the size, by the nearest cell."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class Affine(nn.Module):
  """Scales and shifts channels: batch norm that keeps to its first statistics, 0 and 1."""

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns x, rescaled."""
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
    bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
    return scale * x / (1 + 1e-5) ** 0.5 + bias


class Up(nn.Module):
  """A residual block that doubles the grid."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the block's output."""
    y = nn.relu(Affine(name="norm1")(x))
    y = Conv(self.features, 3, padding=1, bias=False, name="conv1")(double(y))
    y = Conv(self.features, 3, padding=1, name="conv2")(nn.relu(Affine(name="norm2")(y)))
    # A convolution of single cells may as well come first.
    return y + double(Conv(self.features, 1, name="shortcut")(x))


class Down(nn.Module):
  """A residual block that halves the grid, with a norm of whole images."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
    """Returns the block's output."""
    y = nn.relu(_norm("norm1")(x))
    y = Conv(x.shape[-1], 3, padding=1, bias=False, name="conv1")(y)
    y = Conv(self.features, 3, padding=1, name="conv2")(nn.relu(_norm("norm2")(y)))
    return halve(y) + Conv(self.features, 1, name="shortcut")(halve(x))


class Decoder(nn.Module):
  """Makes images of side x side pixels of numbers; nothing bounds their colours."""

  side: int
  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b {self.side} {self.side} 3"]:
    """Returns images."""
    n = self.side // 2 ** (len(self.widths) + 1)
    x = Conv(n * n * self.widths[0], 1, name="linear")(z[:, None, None])
    x = x.reshape(len(z), n, n, self.widths[0])
    x = Conv(self.widths[0], 3, padding=1, name="first")(double(x))
    for i, width in enumerate(self.widths[1:], start=1):
      x = Up(width, name=f"block{i}")(x)
    x = nn.relu(Affine(name="norm")(x))
    return Conv(3, 5, padding=2, name="last")(double(x))


class Critic(nn.Module):
  """Gives a number to each image; it is the decoder turned round, without batch norm."""

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns the numbers."""
    x = Conv(self.widths[-1], 5, 2, padding=2, name="first")(x)
    for i, width in enumerate(self.widths[-2::-1], start=1):
      x = Down(width, name=f"block{i}")(x)
    x = Conv(self.widths[0], 3, 2, padding=1, name="last")(x)
    return Conv(1, 1, name="linear")(x.reshape(len(x), 1, 1, -1))[:, 0, 0, 0]


def _norm(name: str) -> nn.Module:
  axes = (-3, -2, -1)
  return nn.LayerNorm(1e-5, reduction_axes=axes, feature_axes=axes, name=name)
