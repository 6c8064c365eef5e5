"""Multi-scale structural similarity of images.

Wang, Simoncelli, Bovik: Multiscale Structural Similarity for Image Quality Assessment. Asilomar
2003. Constants and borders are those of the common PyTorch version (pytorch_msssim).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_LEAST = 1e-12  # of what is raised to a power, for the gradient's sake
_SIGMA = 1.5


def smooth(x: Float[Array, "b h w c"], window: int) -> Float[Array, "b h2 w2 c"]:
  """Returns the average under a Gaussian window of sigma 1.5, where all of it fits."""
  t = np.arange(window) - window // 2
  weight = np.exp(-(t**2) / (2 * _SIGMA**2))
  weight = (weight / weight.sum()).astype(np.float32)
  for axis in (1, 2):
    n = x.shape[axis] - window + 1
    parts = [w * jax.lax.slice_in_dim(x, i, i + n, axis=axis) for i, w in enumerate(weight)]
    x = jnp.sum(jnp.stack(parts), axis=0)
  return x


def compare(
  x: Float[Array, "b h w c"], y: Float[Array, "b h w c"], span: float, window: int
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
  """Returns similarity and, without the means' part of it, contrast, averaged over the image."""
  c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
  stacked = smooth(jnp.concatenate([x, y, x * x, y * y, x * y]), window)
  mean_x, mean_y, xx, yy, xy = jnp.split(stacked, 5)
  spread = xx - mean_x**2 + yy - mean_y**2
  contrast = (2 * (xy - mean_x * mean_y) + c2) / (spread + c2)
  means = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
  return jnp.mean(means * contrast, axis=(1, 2)), jnp.mean(contrast, axis=(1, 2))


def multiscale(
  x: Float[Array, "b h w c"],
  y: Float[Array, "b h w c"],
  span: float,
  window: int,
  weights: tuple[float, ...],
) -> Float[Array, " b"]:
  """Returns the multi-scale similarity of images whose values span so much; 1 if they are equal.

  It has a weight for each scale, half as large as the one before; h and w can be halved as often,
  and the window fits the last. Negative similarities count as 0.
  """
  total = jnp.ones((len(x), x.shape[-1]))
  for i, weight in enumerate(weights):
    similarity, contrast = compare(x, y, span, window)
    last = i + 1 == len(weights)
    total *= jnp.maximum(similarity if last else contrast, _LEAST) ** weight
    if not last:
      x, y = halve(x), halve(y)
  return jnp.mean(total, axis=1)


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """Returns the mean of each 2x2 cell."""
  return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
