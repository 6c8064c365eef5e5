"""From a grid of scores to an anomaly map at image size."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def blur(x: Float[Array, "b h w"], sigma: float) -> Float[Array, "b h w"]:
  """Gaussian blur as scipy.ndimage.gaussian_filter does it: radius 4 sigma, mirrored edge."""
  radius = int(4 * sigma + 0.5)
  t = np.arange(-radius, radius + 1)
  kernel = np.exp(-0.5 * (t / sigma) ** 2)
  kernel = (kernel / kernel.sum()).astype(np.float32)
  for axis in (1, 2):
    n = x.shape[axis]
    x = jnp.tensordot(x, _band(n, kernel), axes=(axis, 0), precision=jax.lax.Precision.HIGHEST)
    x = jnp.moveaxis(x, -1, axis)
  return x


def _band(n: int, kernel: np.ndarray) -> np.ndarray:
  """[n,n] matrix of a convolution with mirrored ("reflect" in scipy) edges."""
  radius = len(kernel) // 2
  matrix = np.zeros((n, n), np.float32)
  for t, weight in enumerate(kernel):
    source = np.arange(n) + t - radius
    source = source % (2 * n)
    source = np.minimum(source, 2 * n - 1 - source)
    np.add.at(matrix, (source, np.arange(n)), weight)
  return matrix


def to_image(
  grid: Float[Array, "b _h _w"], shape: tuple[int, ...], sigma: float = 4.0
) -> Float[Array, "b h w"]:
  """Resizes bilinearly (align_corners=False) to `shape` (h, w) and smooths by `sigma` pixels."""
  resized = jax.image.resize(grid, (len(grid), *shape), "bilinear", antialias=False)
  return blur(resized, sigma)


def aligned(grid: Float[Array, "b _h _w"], shape: tuple[int, ...]) -> Float[Array, "b h w"]:
  """Resizes bilinearly to `shape` (h, w) with the corners kept (align_corners=True)."""
  rows, columns = (_between(n, m) for n, m in zip(grid.shape[1:], shape, strict=True))
  return jnp.einsum("bij,ki,lj->bkl", grid, rows, columns, precision=jax.lax.Precision.HIGHEST)


def _between(n: int, m: int) -> np.ndarray:
  """[m,n] matrix that interpolates linearly at m points, evenly spaced from first to last of n."""
  place = np.linspace(0, n - 1, m)
  return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n))).astype(np.float32)
