"""Normalizing flows over feature maps: affine couplings, each followed by a fixed permutation.

Notation: a flow takes x [b,h,w,c] to z of the same shape, and says log|det dz/dx| [b] of each
image. A permutation is an order of the channels, y = x[..., permutation]. It is drawn once, kept
beside the parameters and given to every call, so that nothing can train it.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imiad_jax.heads.layers import Conv


def permutations(key: Array, steps: int, channels: int) -> Int[Array, "steps c"]:
  """Draws a random order of the channels for each step of a flow."""
  draw = lambda key: jax.random.permutation(key, channels)  # noqa: E731
  return jax.vmap(draw)(jax.random.split(key, steps)).astype(jnp.int32)


def negative_log_likelihood(
  z: Float[Array, "b h w c"], log_det: Float[Array, " b"]
) -> Float[Array, " b"]:
  """Returns -log p(x) of each image under a normal z, less the constant hwc log(2 pi)/2."""
  return 0.5 * jnp.sum(jnp.square(z), axis=(1, 2, 3)) - log_det


class Coupling(nn.Module):
  """A step of a flow: half of the channels scaled and shifted by what a subnet makes of the rest.

  Then each channel is scaled and shifted by learnt numbers of its own, and all are permuted. This
  is FrEIA's AllInOneBlock, as of 2022: a tenth of the subnet's output is used, and the log-scale is
  clamp * tanh of it.
  """

  channels: int
  hidden: int  # channels between the subnet's two convolutions
  size: int  # of their kernels; odd
  clamp: float = 2.0

  def setup(self):
    """Makes the subnet and the scale and shift of each channel, 1 and 0 at first."""
    self.first = Conv(self.hidden, self.size, padding=self.size // 2)
    self.second = Conv(2 * (self.channels // 2), self.size, padding=self.size // 2)
    one = nn.initializers.constant(2 * math.log(math.exp(5) - 1))
    self.scale = self.param("scale", one, (self.channels,))
    self.shift = self.param("shift", nn.initializers.zeros, (self.channels,))

  def coefficients(
    self, x: Float[Array, "b h w c1"]
  ) -> tuple[Float[Array, "b h w c2"], Float[Array, "b h w c2"]]:
    """Returns log-scale, within +-clamp, and shift of the second half, given the first."""
    a, shift = jnp.split(0.1 * self.second(nn.relu(self.first(x))), 2, axis=-1)
    return self.clamp * jnp.tanh(a), shift

  def gain(self) -> Float[Array, " c"]:
    """Returns the scale of each channel, above 0."""
    return 0.2 * nn.softplus(0.5 * self.scale)

  def __call__(
    self, x: Float[Array, "b h w c"], permutation: Int[Array, " c"]
  ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """Returns y and log|det dy/dx|."""
    kept, moved = jnp.split(x, [self.channels - self.channels // 2], axis=-1)
    log_scale, shift = self.coefficients(kept)
    y = jnp.concatenate([kept, moved * jnp.exp(log_scale) + shift], axis=-1)
    y = (y * self.gain() + self.shift)[..., permutation]
    cells = x.shape[1] * x.shape[2]
    return y, jnp.sum(log_scale, axis=(1, 2, 3)) + cells * jnp.sum(jnp.log(self.gain()))

  def inverse(
    self, y: Float[Array, "b h w c"], permutation: Int[Array, " c"]
  ) -> Float[Array, "b h w c"]:
    """Returns the x of a y."""
    y = (y[..., jnp.argsort(permutation)] - self.shift) / self.gain()
    kept, moved = jnp.split(y, [self.channels - self.channels // 2], axis=-1)
    log_scale, shift = self.coefficients(kept)
    return jnp.concatenate([kept, (moved - shift) * jnp.exp(-log_scale)], axis=-1)


class Flow(nn.Module):
  """Couplings one after another, one for each kernel size of `sizes`."""

  channels: int
  hidden: int
  sizes: tuple[int, ...]
  clamp: float = 2.0

  def setup(self):
    """Makes the couplings."""
    self.steps = [Coupling(self.channels, self.hidden, size, self.clamp) for size in self.sizes]

  def __call__(
    self, x: Float[Array, "b h w c"], permutations: Int[Array, "steps c"]
  ) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """Returns z and log|det dz/dx|."""
    total = jnp.zeros(len(x))
    for step, permutation in zip(self.steps, permutations, strict=True):
      x, log_det = step(x, permutation)
      total += log_det
    return x, total

  def inverse(
    self, z: Float[Array, "b h w c"], permutations: Int[Array, "steps c"]
  ) -> Float[Array, "b h w c"]:
    """Returns the x of a z."""
    for step, permutation in reversed(list(zip(self.steps, permutations, strict=True))):
      z = step.inverse(z, permutation)
    return z
