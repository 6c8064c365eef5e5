"""PaDiM: one Gaussian at every position of the feature grid.

Defard, Setkov, Loesch, Audigier: PaDiM, a Patch Distribution Modeling Framework for Anomaly
Detection and Localization. ICPR workshops 2021, arXiv 2011.08785. There is no code by the authors;
this follows the paper and the common PyTorch version: coarser stages are repeated (not
interpolated) to the finest grid, a random choice of channels is kept, the covariance is the
unbiased one plus eps I, the distance has its root. Each task replaces the last one's Gaussians.
What differs: the moments are accumulated batch by batch around the mean of the first batch, so
that no training features are stored and float32 does not cancel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imiad_jax.heads import gaussian, maps
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
SMALL = {"size": 224}  # what two CPU cores can pay for


class State(NamedTuple):
  """p positions, d channels kept."""

  channels: Array  # [d] int32: which channels are kept; drawn once
  count: Array  # [] float32: images of the task so far
  shift: Float[Array, "p d"]  # mean of the task's first batch
  first: Float[Array, "p d"]  # sum of x - shift
  second: Float[Array, "p d d"]  # sum of (x - shift)(x - shift)'
  mean: Float[Array, "p d"]
  white: Float[Array, "p d d"]  # of the covariance: gaussian.whitening


def Model(
  backbone: str = "resnet18",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3"),
  size: int = 256,
  dim: int = 100,
  eps: float = 0.01,
  sigma: float = 4.0,
  batch: int = 32,
) -> Method:
  """Builds PaDiM.

  Args:
    backbone: a pretrained network.
    stages: its stages, finest first.
    size: height and width of the images.
    dim: channels kept, of all channels of the stages together; all where there are fewer.
    eps: added to the diagonal of every covariance.
    sigma: of the Gaussian that smooths the map, in pixels.
    batch: images at once.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(dim >= 1, "dim", dim, "at least 1")
  need(eps > 0, "eps", eps, "above 0")
  need(sigma > 0, "sigma", sigma, "above 0")

  def embed(state: State, batch: Batch) -> Float[Array, "b p d"]:
    finest = batch.features[stages[0]].shape[1]
    repeated = []
    for stage in stages:
      x = batch.features[stage]
      times = finest // x.shape[1]
      repeated.append(jnp.repeat(jnp.repeat(x, times, axis=1), times, axis=2))
    kept = jnp.concatenate(repeated, axis=-1)[..., state.channels]
    return kept.reshape(len(kept), -1, kept.shape[-1])

  def init(key: Array, spec: Spec, pretrained) -> State:
    del pretrained
    h, w, _ = spec.shape(stages[0])
    total = sum(spec.shape(s)[-1] for s in stages)
    p, d = h * w, min(dim, total)
    channels = jax.random.choice(key, total, (d,), replace=False).astype(jnp.int32)
    flat, square = jnp.zeros((p, d)), jnp.zeros((p, d, d))
    return State(channels, jnp.float32(0), flat, flat, square, flat, square)

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    x = embed(state, batch)
    weight = batch.valid.astype(x.dtype)[:, None, None]
    here = jnp.sum(weight)
    mean = jnp.sum(x * weight, 0) / jnp.maximum(here, 1)
    shift = jnp.where(state.count == 0, mean, state.shift)
    x = (x - shift) * weight
    second = jnp.einsum("npd,npe->pde", x, x, precision=jax.lax.Precision.HIGHEST)
    return state._replace(
      count=state.count + here,
      shift=shift,
      first=state.first + jnp.sum(x, 0),
      second=state.second + second,
    ), {}

  def finish(state: State) -> State:
    n, eye = state.count, jnp.eye(state.first.shape[-1])
    mean = state.first / n
    scatter = state.second - n * jnp.einsum("pd,pe->pde", mean, mean)
    # One image has no covariance: the eps term alone remains.
    covariance = jnp.where(n > 1, scatter / jnp.maximum(n - 1, 1), 0) + eps * eye
    return state._replace(
      count=jnp.zeros_like(n),
      first=jnp.zeros_like(state.first),
      second=jnp.zeros_like(state.second),
      mean=state.shift + mean,
      white=gaussian.whitening(jnp.linalg.cholesky(covariance)),
    )

  def score(state: State, batch: Batch) -> Scores:
    x = embed(state, batch)
    distance = jax.vmap(gaussian.mahalanobis, in_axes=(1, 0, 0), out_axes=1)
    h, w = batch.features[stages[0]].shape[1:3]
    grid = distance(x, state.mean, state.white).reshape(-1, h, w)
    pixel = maps.to_image(grid, batch.image.shape[1:3], sigma)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs=1)
