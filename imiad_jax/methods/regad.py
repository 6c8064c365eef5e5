"""RegAD: registration is learnt from other categories; a new one needs few images and no training.

Huang, Guan, Jiang, Zhang, Spratling, Wang: Registration based Few-Shot Anomaly Detection. ECCV
2022, arXiv 2207.07361. Follows the authors' code: after each stage a spatial transformer turns and
scales the grid, which then feeds the next stage; an encoder and a predictor learn that the grids of
an image and the mean of those of `shots` others of its category agree. For a new category the grids
of its images and of their 21 views, turned back, give a Gaussian at each position, as PaDiM's but
of all channels; encoder and predictor are not used.

The first task is the data set's other categories; a row's label is its category's number. Its first
epoch keeps the images. Each step then takes the category of a random row of the batch and `batch`
images of it, each with random others, so that categories are met as often, in expectation, as the
authors meet them. Of a later task the first `supports` rows are kept as its support images, so that
many rows cost no more; each task replaces the last one's Gaussians.

What differs: batch norm of the backbone is folded into its convolutions, which are trained as they
are; images are normalised as the weights expect, where the authors leave that out; the support
images are those that the setting draws, not ten fixed sets; the last epoch is used, where the
authors take the one that tests best.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from imiad_jax import images, plugins
from imiad_jax.heads import gaussian, maps, registration, warp
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {"size": 128, "epochs": 3, "batch": 8, "shots": 1, "hidden": 64, "supports": 8, "lr": 1e-3}
_TURNS = tuple(sign * k * math.pi / 16 for sign in (-1, 1) for k in (4, 3, 2, 1))
_SHIFTS = tuple((k * a, k * b) for k in (0.2, 0.1) for a in (1, -1) for b in (1, -1))


class State(NamedTuple):
  """n training rows of the largest task, p positions, d channels of all stages."""

  params: Any  # {"net", "encoder", "predictor", and by stage its transformer}
  statistics: Any  # running ones of batch norm, of the same but "net"
  optimiser: Any
  images: UInt8[Array, "n h w 3"]  # of the task, by row
  label: Int[Array, " n"]  # category of each in the first task
  present: Bool[Array, " n"]
  task: Array  # [] int32: tasks finished
  mean: Float[Array, "p d"]  # of the last task but the first
  white: Float[Array, "p d d"]  # of the covariance: gaussian.whitening
  loss: Array  # [] float32: of the last step
  key: Array


def views(image: Float[Array, "h w 3"]) -> Float[Array, "22 h w 3"]:
  """Returns a square image and 21 views: 8 turns, 8 shifts, mirrored, grey, 3 quarter turns."""
  maps = [[[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0]] for a in _TURNS]
  maps += [[[1, 0, a], [0, 1, b]] for a, b in _SHIFTS]
  theta = jnp.asarray(np.array(maps, np.float32))
  moved = warp.affine(jnp.broadcast_to(image, (len(theta), *image.shape)), theta)
  grey = jnp.broadcast_to((image @ images.GREY)[..., None], image.shape)
  rest = [image, image[:, ::-1], grey, *(jnp.rot90(image, k) for k in (1, 2, 3))]
  return jnp.concatenate([moved, jnp.stack(rest)])


def draw(
  key: Array, member: Bool[Array, " n"], b: int, shots: int
) -> tuple[Int[Array, " b"], Int[Array, "b shots"], Bool[Array, " b"]]:
  """Draws b members without replacement, and for each of them others, with replacement.

  Returns rows, rows and whether there were so many members. A single member has itself alone.
  """
  order_key, other_key = jax.random.split(key)
  count = jnp.sum(member)
  shuffled = jnp.argsort(jnp.where(member, jax.random.uniform(order_key, member.shape), 2.0))
  place = jnp.arange(b) % len(member)
  step = jax.random.randint(other_key, (b, shots), 1, jnp.maximum(count, 2))
  others = (place[:, None] + step) % jnp.maximum(count, 1)
  return shuffled[place], shuffled[others], jnp.arange(b) < jnp.minimum(count, len(member))


def Model(
  backbone: str = "resnet18",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3"),
  shots: int = 2,
  hidden: int = 1024,
  supports: int = 32,
  size: int = 224,
  epochs: int = 51,
  batch: int = 32,
  lr: float = 1e-4,
  momentum: float = 0.9,
  eps: float = 0.01,
  sigma: float = 4.0,
) -> Method:
  """Builds RegAD.

  Args:
    backbone: a pretrained network; it is fine-tuned.
    stages: its stages, finest first, after each of which the grid is warped.
    shots: other images that each one is registered with in training.
    hidden: width of the transformers' hidden layer.
    supports: most images of a category that its Gaussians are of; each is seen in 22 views.
    size: height and width of the images.
    epochs: passes over each task, at least 2; the first keeps the images, and nothing else is
      learnt after the first task.
    batch: images at once; in training the network sees `shots` others for each.
    lr: learning rate of SGD at first; it falls by a cosine to 0.
    momentum: of SGD.
    eps: added to the diagonal of every covariance.
    sigma: of the Gaussian that smooths the map, in pixels.

  Raises:
    ValueError: a hyperparameter outside its range, or a backbone that cannot end at a stage.
    UserError: a stage that the backbone does not have.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(shots >= 1, "shots", shots, "at least 1")
  need(hidden >= 1, "hidden", hidden, "at least 1")
  need(supports >= 1, "supports", supports, "at least 1")
  need(epochs >= 2, "epochs", epochs, "at least 2")
  need(lr >= 0, "lr", lr, "at least 0")
  need(0 <= momentum < 1, "momentum", momentum, "at least 0 and below 1")
  need(eps > 0, "eps", eps, "above 0")
  need(sigma > 0, "sigma", sigma, "above 0")
  network = plugins.backbone(backbone).Model
  need(hasattr(network, "until"), "backbone", backbone, "a network that can end at a stage")
  net = network(backbone, until=stages)
  locate = registration.Transformer((64, 16, hidden))
  encoder, predictor = registration.Projector(3), registration.Projector(2)
  optimiser = optax.sgd(1.0, momentum)

  def register(
    params: Any, statistics: Any, image: Float[Array, "b h w 3"], valid: Bool[Array, " b"] | None
  ) -> tuple[dict[str, Array], dict[str, Array], Any]:
    """Returns the warped grids, their maps and the transformers' moved statistics, by stage."""
    warped, thetas, moved = {}, {}, {}

    def between(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
      x, path = next_fun(*args, **kwargs), context.module.path
      if len(path) != 1 or path[0] not in stages:
        return x
      stage = path[0]
      variables = {"params": params[stage], "batch_stats": statistics[stage]}
      thetas[stage], found = locate.apply(variables, x, valid, mutable=["batch_stats"])
      moved[stage] = found["batch_stats"]
      warped[stage] = warp.affine(x, thetas[stage])
      return warped[stage]

    with nn.intercept_methods(between):
      net.apply({"params": params["net"]}, image)
    return warped, thetas, moved

  def embed(state: State, image: Float[Array, "b h w 3"]) -> Float[Array, "b p d"]:
    """Returns the grids of all stages turned back and repeated to the finest one."""
    warped, thetas, _ = register(state.params, state.statistics, image, None)
    back, grids = [], []
    for stage in stages:
      back.insert(0, warp.inverse(thetas[stage]))
      x = warped[stage]
      for theta in back:
        x = warp.affine(x, theta)
      times = warped[stages[0]].shape[1] // x.shape[1]
      grids.append(jnp.repeat(jnp.repeat(x, times, axis=1), times, axis=2))
    x = jnp.concatenate(grids, axis=-1)
    return x.reshape(len(x), -1, x.shape[-1])

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    key, encoder_key, predictor_key, *keys = jax.random.split(key, 3 + len(stages))
    image = jax.ShapeDtypeStruct((1, *spec.image), jnp.float32)
    shapes, made = jax.eval_shape(net.init_with_output, jax.random.key(0), image)
    for stage in stages:
      plugins.check(f"stage of {backbone}", stage, shapes)
    grids = {stage: jnp.zeros(shapes[stage].shape) for stage in stages}
    deep = grids[stages[-1]]
    found = {s: locate.init(k, grids[s], None) for s, k in zip(stages, keys, strict=True)}
    found["encoder"] = encoder.init(encoder_key, deep, None)
    found["predictor"] = predictor.init(predictor_key, deep, None)
    params = {name: variables["params"] for name, variables in found.items()}
    params["net"] = {part: pretrained[part] for part in made["params"]}
    n, d = spec.max_train, sum(x.shape[-1] for x in grids.values())
    p = math.prod(grids[stages[0]].shape[1:3])
    return State(
      params=params,
      statistics={name: variables["batch_stats"] for name, variables in found.items()},
      optimiser=optimiser.init(params),
      images=jnp.zeros((n, *spec.image), jnp.uint8),
      label=jnp.zeros(n, jnp.int32),
      present=jnp.zeros(n, bool),
      task=jnp.int32(0),
      mean=jnp.zeros((p, d)),
      white=jnp.broadcast_to(jnp.eye(d), (p, d, d)),
      loss=jnp.float32(0),
      key=key,
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    what = jnp.where(batch.epoch == 0, 0, jnp.where(state.task == 0, 1, 2))
    state = jax.lax.switch(what, (keep, learn, lambda s, *_: s), state, batch)
    return state, {"loss": state.loss}

  def keep(state: State, batch: Batch) -> State:
    image = jnp.round(255 * batch.image).astype(jnp.uint8)
    return state._replace(
      images=state.images.at[batch.row].set(image, mode="drop"),
      label=state.label.at[batch.row].set(batch.label, mode="drop"),
      present=state.present.at[batch.row].set(True, mode="drop"),
    )

  def learn(state: State, batch: Batch) -> State:
    """Makes one step of SGD on images of one category."""
    b = len(batch.valid)
    key, row_key, image_key = jax.random.split(state.key, 3)
    row = jax.random.categorical(row_key, jnp.where(batch.valid, 0.0, -jnp.inf))
    member = state.present & (state.label == batch.label[row])
    query, other, valid = draw(image_key, member, b, shots)
    query, other = state.images[query] / 255, state.images[other.reshape(-1)] / 255
    weight = valid / jnp.sum(valid)

    def loss(params: Any) -> tuple[Array, Any]:
      def apply(module: nn.Module, name: str, statistics: Any, x: Array) -> tuple[Array, Any]:
        variables = {"params": params[name], "batch_stats": statistics[name]}
        y, moved = module.apply(variables, x, valid, mutable=["batch_stats"])
        return y, statistics | {name: moved["batch_stats"]}

      one, _, moved = register(params, state.statistics, query, valid)
      statistics = state.statistics | moved
      many, _, moved = register(params, statistics, other, jnp.repeat(valid, shots))
      statistics |= moved
      f1, f2 = one[stages[-1]], many[stages[-1]]
      f2 = jnp.mean(f2.reshape(b, shots, *f2.shape[1:]), axis=1)
      z1, statistics = apply(encoder, "encoder", statistics, f1)
      z2, statistics = apply(encoder, "encoder", statistics, f2)
      p1, statistics = apply(predictor, "predictor", statistics, z1)
      p2, statistics = apply(predictor, "predictor", statistics, z2)
      return jnp.sum(registration.agreement(p1, z1, p2, z2) * weight), statistics

    (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    rate = lr * 0.5 * (1 + jnp.cos(jnp.pi * batch.epoch / (epochs - 1)))
    params = jax.tree.map(lambda p, dp: p + rate * dp, state.params, step)
    return state._replace(params=params, statistics=statistics, optimiser=opt, loss=value, key=key)

  def finish(state: State) -> State:
    mean, white = jax.lax.cond(state.task == 0, lambda s: (s.mean, s.white), fit, state)
    return state._replace(
      present=jnp.zeros_like(state.present), task=state.task + 1, mean=mean, white=white
    )

  def fit(state: State) -> tuple[Float[Array, "p d"], Float[Array, "p d d"]]:
    """Returns mean and whitening matrix of all views of the support images."""
    k, eye = min(supports, len(state.images)), jnp.eye(state.mean.shape[-1])
    shift = jnp.mean(embed(state, views(state.images[0] / 255)), axis=0)

    def add(carry: Any, given: Any) -> tuple[Any, None]:
      first, second = carry
      image, weight = given
      x = (embed(state, views(image / 255)) - shift) * weight
      square = jnp.einsum("npd,npe->pde", x, x, precision=jax.lax.Precision.HIGHEST)
      return (first + jnp.sum(x, axis=0), second + square), None

    weight = state.present[:k].astype(jnp.float32)
    start = (jnp.zeros_like(state.mean), jnp.zeros_like(state.white))
    (first, second), _ = jax.lax.scan(add, start, (state.images[:k], weight))
    n = 22 * jnp.maximum(jnp.sum(weight), 1)
    mean = first / n
    scatter = second - n * jnp.einsum("pd,pe->pde", mean, mean)
    factor = jnp.linalg.cholesky(scatter / (n - 1) + eps * eye)
    return shift + mean, gaussian.whitening(factor)

  def score(state: State, batch: Batch) -> Scores:
    x = embed(state, batch.image)
    distance = jax.vmap(gaussian.mahalanobis, in_axes=(1, 0, 0), out_axes=1)
    side = math.isqrt(x.shape[1])
    grid = distance(x, state.mean, state.white).reshape(-1, side, side)
    pixel = maps.to_image(grid, batch.image.shape[1:3], sigma)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(
    *(init, update, finish, score, backbone, (), size, batch, epochs),
    needs_others=True,
  )
