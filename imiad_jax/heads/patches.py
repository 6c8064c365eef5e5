"""Locally averaged patch features of several stages, merged on one grid.

Notation: a stage is [b,h,w,c]; a cell's patch is its 3x3 neighbourhood (zeros outside the grid),
laid out channel-major as 9c numbers; `pool` averages them to d numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def neighbourhood(x: Float[Array, "b h w c"]) -> Float[Array, "b h w 9*c"]:
  """Returns each cell's 3x3 patch, channel-major and zero padded, as torch's unfold lays it out."""
  h, w = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
  return jnp.stack(shifted, axis=-1).reshape(*x.shape[:3], -1)


def pool(x: Float[Array, "... n"], dim: int) -> Float[Array, "... dim"]:
  """Adaptive average pooling of the last axis to `dim` numbers.

  Number j is the mean of x[floor(j n / dim) : ceil((j + 1) n / dim)], as in PyTorch's
  adaptive_avg_pool1d; it repeats entries where dim > n.
  """
  n = x.shape[-1]
  j = np.arange(dim)
  start, stop = j * n // dim, -(-(j + 1) * n // dim)
  total = jnp.zeros((*x.shape[:-1], dim), x.dtype)
  for k in range(int((stop - start).max())):  # sums of axes this short are slow on CPUs
    weight = (start + k < stop) / (stop - start)
    total += x[..., np.minimum(start + k, n - 1)] * weight.astype(np.float32)
  return total


def embed(stages: list[Float[Array, "b _h _w _c"]], dim: int) -> Float[Array, "b h w dim"]:
  """Merges stages into one patch embedding per cell of the first stage's grid.

  As the authors' code of PatchCore (Roth et al., CVPR 2022, arXiv 2106.08265) does: 3x3 patches
  pooled to `dim` per stage, resized bilinearly to the first grid, concatenated, pooled to `dim`.
  """
  b, h, w, _ = stages[0].shape
  pooled = [pool(neighbourhood(x), dim) for x in stages]
  # Resizing is linear in each number, so it may follow the pooling and is cheaper there.
  resized = [jax.image.resize(x, (b, h, w, dim), "bilinear", antialias=False) for x in pooled]
  stacked = jnp.stack(resized, axis=-2)  # [b,h,w,stages,dim]
  return pool(stacked.reshape(b, h, w, -1), dim)
