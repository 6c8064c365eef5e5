"""CFA: patch features drawn into small hyperspheres around one memorised centre per position.

Lee, Lee, Song: CFA, Coupled-hypersphere-based Feature Adaptation for Target-Oriented Anomaly
Localization. IEEE Access 2022, arXiv 2206.04325. Follows the authors' code: the memory bank is the
mean, at every position of the grid, of what the descriptor gives before it is trained, and stays
as it is; the descriptor is a 1x1 convolution that also sees the two coordinates; the radius is
learnt; AdamW with the AMSGrad maximum of torch.

What differs: the first epoch, one more than `epochs`, does nothing but build the bank. A last,
shorter batch is not left out, and an image weighs the same in the bank whichever batch it is in.
The bank is not compressed by k-means (gamma_c = 1, the authors' default). What the authors do for
their EfficientNet alone is a choice here (`shrink`, `gamma_d`). Images are resized to a square
without a centre crop. Scores are those of the last epoch, not of the one that tests best. Each task
begins anew: descriptor, radius and bank.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from imiad_jax.errors import UserError
from imiad_jax.heads import knn, layers, maps
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for; the embedded backbone is an EfficientNet.
SMALL = {"stages": ("layer2", "layer3"), "size": 224, "shrink": True, "lr": 3e-3, "epochs": 5}
_NEAR, _FAR = 3, 3  # K centres that attract, J that repel
_NU, _ALPHA = 1e-3, 0.1  # how hard the margin is, how far beyond the radius the repelling ones lie


class State(NamedTuple):
  """p positions of the grid, d numbers that the descriptor gives to each."""

  params: Any  # {"descriptor": of Descriptor, "radius": []}
  optimiser: Any
  bank: Float[Array, "p d"]  # the mean description of each position
  count: Array  # [] float32: images of this task in the bank
  key: Array  # of the task's first descriptor


class Descriptor(nn.Module):
  """A 1x1 convolution that sees where it is: CoordConv (Liu et al., arXiv 1807.03247)."""

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
    """Returns descriptions; the coordinates run from -1 to 1, that along the height comes first."""
    h, w = x.shape[1:3]
    y, z = jnp.meshgrid(jnp.linspace(-1, 1, h), jnp.linspace(-1, 1, w), indexing="ij")
    where = jnp.broadcast_to(jnp.stack([y, z], axis=-1), (len(x), h, w, 2))
    return layers.Conv(self.features, 1)(jnp.concatenate([x, where], axis=-1))


def merge(stages: list[Float[Array, "b _h _w _c"]]) -> Float[Array, "b h w c"]:
  """Returns 3x3 means of the stages, counting zeros beyond the edge, on the grid of the first."""
  pooled = [nn.avg_pool(x, (3, 3), padding="SAME") for x in stages]
  grid = stages[0].shape[:3]
  return jnp.concatenate(
    [jax.image.resize(x, (*grid, x.shape[-1]), "bilinear", antialias=False) for x in pooled], -1
  )


def nearest(
  described: Float[Array, "b p d"], bank: Float[Array, "m d"], k: int
) -> Float[Array, "b p k"]:
  """Returns squared distances to the k nearest centres, nearest first, an image at a time."""
  used = jnp.ones(len(bank), bool)
  return jax.lax.map(lambda x: knn.neighbours(x, bank, used, k)[0], described)


def objective(
  squared: Float[Array, "b p 6"], radius: Float[Array, ""], valid: Bool[Array, " b"]
) -> Float[Array, ""]:
  """Returns L_att + L_rep of the valid images (equations 2 and 4 of the paper).

  The three nearest centres attract what is outside the radius, the next three repel what is not
  beyond it by alpha.
  """
  attract = nn.relu(squared[..., :_NEAR] - radius**2)
  repel = nn.relu(radius**2 - squared[..., -_FAR:] - _ALPHA)
  each = jnp.mean(attract, (1, 2)) + jnp.mean(repel, (1, 2))
  return jnp.sum(each * valid) / jnp.sum(valid) / _NU


def amsgrad(lr: float, weight_decay: float) -> optax.GradientTransformation:
  """Returns torch's AdamW with AMSGrad.

  torch corrects the bias of the largest second moment, optax takes the largest of those corrected:
  here the correction, sqrt(1 - b2^t), follows.
  """
  return optax.chain(
    optax.scale_by_amsgrad(bias_correction_nu=False),
    optax.scale_by_schedule(lambda count: jnp.sqrt(1 - 0.999 ** (count + 1))),
    optax.add_decayed_weights(weight_decay),
    optax.scale(-lr),
  )


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3"),
  size: int = 224,
  epochs: int = 30,
  batch: int = 4,
  gamma_d: float = 1.0,
  shrink: bool = False,
  lr: float = 1e-3,
  weight_decay: float = 5e-4,
  sigma: float = 4.0,
) -> Method:
  """Builds CFA.

  Args:
    backbone: a pretrained network.
    stages: its stages, finest first.
    size: height and width of the images.
    epochs: passes over each task that train, after one that builds the bank.
    batch: images at once.
    gamma_d: the descriptor gives so many times fewer numbers than the stages have channels (the
      authors: 0.5 for their EfficientNet).
    shrink: divide each stage by its number of channels, as the authors do for their EfficientNet,
      whose activations are large beside alpha and a radius that starts at 0.
    lr: learning rate.
    weight_decay: of the descriptor and of the radius, apart from the gradient.
    sigma: of the Gaussian that smooths the map, in pixels.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(epochs >= 1, "epochs", epochs, "at least 1")
  need(gamma_d > 0, "gamma_d", gamma_d, "above 0")
  need(lr >= 0, "lr", lr, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(sigma > 0, "sigma", sigma, "above 0")
  optimiser = amsgrad(lr, weight_decay)

  def embed(batch: Batch) -> Float[Array, "b h w c"]:
    grids = [batch.features[s] for s in stages]
    return merge([x / x.shape[-1] for x in grids] if shrink else grids)

  def describe(params: Any, x: Float[Array, "b h w c"]) -> Float[Array, "b p d"]:
    y: Any = descriptor(x).apply(params["descriptor"], x)
    return y.reshape(len(x), -1, y.shape[-1])

  def descriptor(x: Array) -> Descriptor:
    return Descriptor(max(1, int(x.shape[-1] / gamma_d)))

  def begin(key: Array, x: Float[Array, "b h w c"]) -> tuple[Any, Any]:
    """Returns the parameters and the optimiser's state at a task's start."""
    params = {"descriptor": descriptor(x).init(key, x), "radius": jnp.float32(1e-5)}
    return params, optimiser.init(params)

  def init(key: Array, spec: Spec, pretrained) -> State:
    del pretrained
    h, w, _ = spec.shape(stages[0])
    if h * w < _NEAR + _FAR:
      raise UserError(
        f"CFA needs a grid of {_NEAR + _FAR} cells, but {stages[0]} has {h} x {w}: raise size."
      )
    x = jnp.zeros((1, h, w, sum(spec.shape(s)[-1] for s in stages)))
    params, opt = begin(key, x)
    return State(params, opt, jnp.zeros_like(describe(params, x)[0]), jnp.float32(0), key)

  def memorise(state: State, batch: Batch) -> tuple[State, Logs]:
    x = embed(batch)
    params, opt = jax.tree.map(
      lambda new, old: jnp.where(state.count == 0, new, old),
      begin(state.key, x),
      (state.params, state.optimiser),
    )
    count = state.count + jnp.sum(batch.valid)
    before = jnp.where(state.count == 0, 0, state.bank)
    away = (describe(params, x) - before) * batch.valid[:, None, None]
    bank = before + jnp.sum(away, 0) / count
    return State(params, opt, bank, count, state.key), {"loss": jnp.float32(0)}

  def train(state: State, batch: Batch) -> tuple[State, Logs]:
    x = embed(batch)

    def loss(params: Any) -> Array:
      squared = nearest(describe(params, x), state.bank, _NEAR + _FAR)
      return objective(squared, params["radius"], batch.valid)

    value, gradient = jax.value_and_grad(loss)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, step)
    return state._replace(params=params, optimiser=opt), {"loss": value}

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    return jax.lax.cond(batch.epoch == 0, memorise, train, state, batch)

  def finish(state: State) -> State:
    return state._replace(count=jnp.zeros_like(state.count), key=jax.random.split(state.key)[0])

  def score(state: State, batch: Batch) -> Scores:
    x = embed(batch)
    distance = jnp.sqrt(nearest(describe(state.params, x), state.bank, _NEAR))
    grid = nn.softmax(-distance, axis=-1)[..., 0] * distance[..., 0]
    pixel = maps.to_image(grid.reshape(x.shape[:3]), batch.image.shape[1:3], sigma)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs + 1)
