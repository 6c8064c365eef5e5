"""A normalizing flow over an image's feature maps at several scales, each informed by the others.

Notation: x is a tuple of maps [b,h,w,c], finest first, each half as high and wide as the one before
it, rounded up; z has the same shapes. log|det dz/dx| is a tuple too, a share [b] for each scale.
Permutations are as in `flow`: orders of the channels that are drawn once and given to every call.

Rudolph, Wehrbein, Rosenhahn, Wandt: Fully Convolutional Cross-Scale-Flows for Image-based Defect
Detection. WACV 2022, arXiv 2110.02855. The inverse is derived from the forward pass; that of the
authors' code, which they never use, takes a shift of one half for that of the other.
"""

from functools import partial
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imiad_jax.heads.layers import Conv

Maps = tuple[Float[Array, "b _h _w _c"], ...]
Shares = tuple[Float[Array, " b"], ...]
LIMIT = 1e6  # what a coupling puts out is clipped to +-LIMIT


class CrossConvolutions(nn.Module):
  """Two convolutions at every scale; before the second one each scale also hears its neighbours.

  What comes out of a scale is multiplied by a number of its own, 0 at first.
  """

  hidden: int  # channels between the convolutions
  size: int  # of their kernels; odd

  @nn.compact
  def __call__(self, x: Maps, features: int) -> Maps:
    """Returns maps of as many cells as those of x, of `features` channels."""
    conv = partial(Conv, size=self.size, padding=self.size // 2)
    h = [nn.leaky_relu(conv(self.hidden, name=f"in{i}")(m), 0.1) for i, m in enumerate(x)]
    out = [conv(features, name=f"out{i}")(m) for i, m in enumerate(h)]
    for i, (fine, coarse) in enumerate(pairwise(h)):
      grown = jax.image.resize(coarse, fine.shape, "bilinear", antialias=False)
      out[i] += conv(features, name=f"up{i}")(grown)
      out[i + 1] += conv(features, stride=2, name=f"down{i}")(fine)
    gamma = self.param("gamma", nn.initializers.zeros, (len(out),))
    return tuple(g * m for g, m in zip(gamma, out, strict=True))


class Coupling(nn.Module):
  """A step of a flow: at every scale each half of the channels is scaled and shifted in turn."""

  hidden: int
  size: int
  clamp: float = 3.0

  def setup(self):
    """Makes the subnets that are told the first and the second halves."""
    self.told_first = CrossConvolutions(self.hidden, self.size)
    self.told_second = CrossConvolutions(self.hidden, self.size)

  def coefficients(self, net: CrossConvolutions, half: Maps, features: int) -> tuple[Maps, Maps]:
    """Returns log-scales and shifts of the other half, of `features` channels, given one.

    The log-scales lie within +-0.636 pi/2 clamp, where 0.636 is the authors' 2/pi.
    """
    pairs = [jnp.split(m, 2, axis=-1) for m in net(half, 2 * features)]
    log_scale = tuple(self.clamp * 0.636 * jnp.arctan(s / self.clamp) for s, _ in pairs)
    return log_scale, tuple(shift for _, shift in pairs)

  def __call__(self, x: Maps) -> tuple[Maps, Shares]:
    """Returns y and log|det dy/dx|."""
    first, second = _halves(x)
    scale1, shift1 = self.coefficients(self.told_second, second, first[0].shape[-1])
    first = jax.tree.map(lambda m, s, t: m * jnp.exp(s) + t, first, scale1, shift1)
    scale2, shift2 = self.coefficients(self.told_first, first, second[0].shape[-1])
    second = jax.tree.map(lambda m, s, t: m * jnp.exp(s) + t, second, scale2, shift2)
    y = jax.tree.map(lambda *m: jnp.clip(jnp.concatenate(m, -1), -LIMIT, LIMIT), first, second)
    return y, jax.tree.map(lambda *s: sum(jnp.sum(m, (1, 2, 3)) for m in s), scale1, scale2)

  def inverse(self, y: Maps) -> Maps:
    """Returns the x of a y, where nothing was clipped."""
    first, second = _halves(y)
    scale, shift = self.coefficients(self.told_first, first, second[0].shape[-1])
    second = jax.tree.map(lambda m, s, t: (m - t) * jnp.exp(-s), second, scale, shift)
    scale, shift = self.coefficients(self.told_second, second, first[0].shape[-1])
    first = jax.tree.map(lambda m, s, t: (m - t) * jnp.exp(-s), first, scale, shift)
    return jax.tree.map(lambda *m: jnp.concatenate(m, -1), first, second)


class Flow(nn.Module):
  """A permutation and a coupling for each kernel size of `sizes`, one after another."""

  hidden: int
  sizes: tuple[int, ...]
  clamp: float = 3.0

  def setup(self):
    """Makes the couplings."""
    self.steps = [Coupling(self.hidden, size, self.clamp) for size in self.sizes]

  def __call__(self, x: Maps, permutations: Int[Array, "steps scales c"]) -> tuple[Maps, Shares]:
    """Returns z and log|det dz/dx|."""
    total = tuple(jnp.zeros(len(m)) for m in x)
    for step, orders in zip(self.steps, permutations, strict=True):
      x, log_det = step(tuple(m[..., order] for m, order in zip(x, orders, strict=True)))
      total = jax.tree.map(jnp.add, total, log_det)
    return x, total

  def inverse(self, z: Maps, permutations: Int[Array, "steps scales c"]) -> Maps:
    """Returns the x of a z."""
    for step, orders in reversed(list(zip(self.steps, permutations, strict=True))):
      back = jnp.argsort(orders, axis=-1)
      z = tuple(m[..., order] for m, order in zip(step.inverse(z), back, strict=True))
    return z


def _halves(x: Maps) -> tuple[Maps, Maps]:
  """Splits the channels; where their number is odd, the second half has one more."""
  pairs = [jnp.split(m, [m.shape[-1] // 2], axis=-1) for m in x]
  return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
