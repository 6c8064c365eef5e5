"""GCAD: a local and a global network, each imitated by one that fails where an image is new to it.

Bergmann, Batzner, Fauser, Sattlegger, Steger: Beyond Dents and Scratches: Logical Constraints in
Unsupervised Anomaly Detection and Localization. IJCV 130 (2022), doi 10.1007/s11263-022-01578-9.
There is no code by the authors; this is after the paper's description. Local: a network R_loc
learns to predict the descriptors of cells that see little of the image. Global: an encoder squeezes
the image into a vector, from which a decoder predicts the same descriptors; R_glo, without such a
bottleneck, learns to predict what it says, which is the target and gets no gradient of this. Both
disagreements are squared distances over the channels, normalised by normal images and averaged over
branches and descriptors. Descriptors are normalised by channel before all losses.

The paper's: the losses and their equal weights, 32 numbers in the bottleneck, two receptive fields,
a pretrained residual encoder, Adam with 1e-4 and 1e-5, 256 pixels, 500 epochs, the largest value of
the map as the image's. What differs: the descriptors are stages of the backbone, those between the
first and the last of `stages`, and what each network sees are its stages too, not the image: R_loc
the stage before the described one, the encoder the last one, R_glo the described one and all
after it, as the way down of its U-Net. So few weights are trained, and a few hundred steps do. Ours
are also the widths, the batch, the cosine of the learning rate, `noise` and the epochs that only
measure: channels in the first one, maps in the last. Maps are normalised by the training images
(the paper has others set aside), each cell by its own mean and deviation as far as there are images
enough, see `prior`. In a later task all networks go on, and what is measured is measured anew.

`branch` puts other global networks in the bottleneck's place, to be compared with it: one that
attends, a normalizing flow over the last stage, whose map is the squared length of z and which
nothing imitates, and one that sees the last stage as it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from imiad_jax.heads import context, flow, moments
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for: one described stage, and noise, for 60 images are learnt by heart.
SMALL = {
  "stages": ("layer2", "layer3", "layer4"),
  "width": 64,
  "noise": 0.5,
  "size": 224,
  "epochs": 102,
  "batch": 8,
  "lr": 2e-3,
}
BRANCHES = ("bottleneck", "attention", "flow", "none")
_STEPS = (3, 1, 3, 1)  # kernels of the flow's couplings

Stages = dict[str, Float[Array, "b _h _w _c"]]
Maps = dict[str, Float[Array, "b 2 _h _w"]]  # described stage -> local and global map


class State(NamedTuple):
  """By stage, and where there are two of a kind, of the local and the global map."""

  params: dict[str, dict[str, Any]]  # described stage -> "local", "global", "reader" -> ...
  orders: dict[str, Int[Array, "steps c"]]  # described stage -> permutations of its flow
  optimiser: Any
  cells: moments.Moments  # of the task's features: stage -> [h,w,c]
  mean: dict[str, Float[Array, " _c"]]  # of each stage's channels, of the last task measured
  deviation: dict[str, Float[Array, " _c"]]
  maps: moments.Moments  # of the task's maps: described stage -> [2,h,w]
  centre: dict[str, Float[Array, "2 _h _w"]]  # mean of normal maps
  spread: dict[str, Float[Array, "2 _h _w"]]  # deviation of normal maps
  loss: Array  # [] float32: of the last step
  key: Array


def pooled(
  mean: Float[Array, "h w c"], variance: Float[Array, "h w c"]
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
  """Returns mean and deviation of channels from those of cells; 1 for one that never changes."""
  overall = jnp.mean(mean, axis=(0, 1))
  total = jnp.mean(variance + jnp.square(mean - overall), axis=(0, 1))
  return overall, jnp.where(total > 1e-10, jnp.sqrt(total), 1)


def shrunk(
  mean: Float[Array, "2 h w"], variance: Float[Array, "2 h w"], n: Array, prior: float
) -> tuple[Float[Array, "2 h w"], Float[Array, "2 h w"]]:
  """Returns mean and deviation of each cell of n maps and of `prior` more.

  These are worth as much, with the mean and the variance of the whole maps at every cell.
  """
  overall = jnp.mean(mean, axis=(1, 2), keepdims=True)
  square = variance + jnp.square(mean - overall)
  total = jnp.mean(square, axis=(1, 2), keepdims=True)
  count = jnp.maximum(n + prior, 1)
  off = n * (mean - overall) / count
  left = (n * square + prior * total) / count - jnp.square(off)
  return overall + off, jnp.where(left > 1e-12, jnp.sqrt(left), 1)


def Model(
  backbone: str = "resnet18",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4"),
  branch: str = "bottleneck",
  code: int = 32,
  width: int = 128,
  noise: float = 0.0,
  prior: float = 10.0,
  size: int = 256,
  epochs: int = 502,
  batch: int = 8,
  lr: float = 1e-4,
  weight_decay: float = 1e-5,
) -> Method:
  """Builds GCAD.

  Args:
    backbone: a pretrained network.
    stages: its stages, finest first, three or more; all but the first and the last are described.
    branch: the global network: "bottleneck", "attention", "flow" or "none".
    code: numbers in the bottleneck.
    width: channels inside all networks, a multiple of 4.
    noise: standard deviation of what is added to the global network's input, in deviations of its
      channels, while the descriptors are learnt.
    prior: images that the statistics of a whole map count for at each cell of it; the paper has
      these alone, which is a very large `prior`.
    size: height and width of the images.
    epochs: passes over each task, at least 3: the first measures channels, the last maps.
    batch: images at once.
    lr: learning rate of Adam at first.
    weight_decay: L2 penalty, added to the gradient as torch's Adam does.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) >= 3, "stages", stages, "three or more stages of the backbone")
  need(branch in BRANCHES, "branch", branch, f"one of {', '.join(BRANCHES)}")
  need(code >= 1, "code", code, "at least 1")
  need(width >= 4 and width % 4 == 0, "width", width, "a multiple of 4")
  need(noise >= 0, "noise", noise, "at least 0")
  need(prior >= 0, "prior", prior, "at least 0")
  need(epochs >= 3, "epochs", epochs, "at least 3")
  need(lr >= 0, "lr", lr, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  described = stages[1:-1]
  optimiser = optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam())

  def networks(shape: tuple[int, ...], deep: tuple[int, ...]) -> dict[str, Any]:
    """Returns the networks of a described stage [..,h,w,c], given the shape of the last one."""
    h, w, c = shape[-3:]
    made: dict[str, Callable[[], nn.Module]] = {
      "bottleneck": lambda: context.Bottleneck((h, w), c, width, code),
      "attention": lambda: context.Attention((h, w), c, width),
      "flow": lambda: flow.Flow(deep[-1], width, _STEPS),
      "none": lambda: context.Unlimited((h, w), c, width),
    }
    found: dict[str, Any] = {"local": context.Local((h, w), c, width), "global": made[branch]()}
    return found if branch == "flow" else found | {"reader": context.Reader(c, width)}

  def inputs(x: Stages, stage: str, orders: Any) -> dict[str, tuple[Any, ...]]:
    """Returns what each network of a described stage is called with."""
    i = stages.index(stage)
    below, deep = (x[stages[i - 1]],), x[stages[-1]]
    if branch == "flow":
      return {"local": below, "global": (deep, orders[stage])}
    return {"local": below, "global": (deep,), "reader": ([x[s] for s in stages[i:]],)}

  def call(state: State, params: Any, stage: str, x: Stages) -> dict[str, Any]:
    """Returns what each network of a described stage says."""
    given = inputs(x, stage, state.orders)
    made = networks(x[stage].shape, x[stages[-1]].shape)
    return {n: made[n].apply({"params": params[stage][n]}, *given[n]) for n in given}

  def errors(state: State, params: Any, x: Stages) -> Maps:
    """Returns the squared disagreements of the imitators, which are trained by their mean too."""
    found = {}
    for stage in described:
      said = call(state, params, stage, x)
      local = jnp.sum(jnp.square(x[stage] - said["local"]), axis=-1)
      if branch == "flow":
        grid = jnp.sum(jnp.square(said["global"][0]), axis=-1, keepdims=True)
        whole = context.resized(grid, local.shape[1:])[..., 0]
      else:
        target = jax.lax.stop_gradient(said["global"])
        whole = jnp.sum(jnp.square(target - said["reader"]), axis=-1)
      found[stage] = jnp.stack([local, whole], axis=1)
    return found

  def losses(state: State, params: Any, x: Stages, key: Array) -> Float[Array, " b"]:
    """Returns each image's loss."""
    error, total = errors(state, params, x), jnp.zeros(len(x[stages[0]]))
    deep = x[stages[-1]]
    noisy = x | {stages[-1]: deep + noise * jax.random.normal(key, deep.shape)}
    for stage in described:
      local, whole = jnp.mean(error[stage], axis=(2, 3)).T
      said = call(state, params, stage, noisy)["global"]
      if branch == "flow":  # its map is no loss: without the determinant all would shrink to 0
        h, w, c = deep.shape[1:]
        total += local + flow.negative_log_likelihood(*said) / (h * w * c)
      else:
        total += local + whole + jnp.mean(jnp.sum(jnp.square(x[stage] - said), -1), axis=(1, 2))
    return total

  def normal(state: State, batch: Batch) -> Stages:
    """Returns the features with every channel normalised."""
    return {s: (batch.features[s] - state.mean[s]) / state.deviation[s] for s in stages}

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    del pretrained
    x = {s: jnp.zeros((1, *spec.shape(s))) for s in stages}
    params, orders = {}, {}
    for stage in described:
      key, order_key, *keys = jax.random.split(key, 5)
      deep = spec.shape(stages[-1])
      if branch == "flow":
        orders[stage] = flow.permutations(order_key, len(_STEPS), deep[-1])
      made, given = networks(spec.shape(stage), deep), inputs(x, stage, orders)
      params[stage] = {
        n: net.init(k, *given[n])["params"] for k, (n, net) in zip(keys, made.items(), strict=False)
      }
    maps = {s: jnp.zeros((2, *spec.shape(s)[:2])) for s in described}
    return State(
      params=params,
      orders=orders,
      optimiser=optimiser.init(params),
      cells=moments.start({s: x[s][0] for s in stages}),
      mean={s: jnp.zeros(spec.shape(s)[-1]) for s in stages},
      deviation={s: jnp.ones(spec.shape(s)[-1]) for s in stages},
      maps=moments.start(maps),
      centre=maps,
      spread=jax.tree.map(jnp.ones_like, maps),
      loss=jnp.float32(0),
      key=key,
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    what = jnp.where(batch.epoch == 0, 0, jnp.where(batch.epoch < epochs - 1, 1, 2))
    state = jax.lax.switch(what, (measure_channels, learn, measure_maps), state, batch)
    return state, {"loss": state.loss}

  def measure_channels(state: State, batch: Batch) -> State:
    x = {s: batch.features[s] for s in stages}
    cells = moments.add(state.cells, x, batch.valid.astype(jnp.float32))
    mean, variance = moments.mean_and_variance(cells)
    both = {s: pooled(mean[s], variance[s]) for s in stages}
    return state._replace(
      cells=cells,
      mean={s: m for s, (m, _) in both.items()},
      deviation={s: d for s, (_, d) in both.items()},
    )

  def learn(state: State, batch: Batch) -> State:
    """Makes one step of Adam."""
    key, noise_key = jax.random.split(state.key)
    x, weight = normal(state, batch), batch.valid / jnp.sum(batch.valid)

    def loss(params: Any) -> Array:
      return jnp.sum(losses(state, params, x, noise_key) * weight)

    value, gradient = jax.value_and_grad(loss)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    rate = lr * 0.5 * (1 + jnp.cos(jnp.pi * (batch.epoch - 1) / (epochs - 2)))
    params = jax.tree.map(lambda p, dp: p - rate * dp, state.params, step)
    return state._replace(params=params, optimiser=opt, loss=value, key=key)

  def measure_maps(state: State, batch: Batch) -> State:
    found = errors(state, state.params, normal(state, batch))
    return state._replace(maps=moments.add(state.maps, found, batch.valid.astype(jnp.float32)))

  def finish(state: State) -> State:
    mean, variance = moments.mean_and_variance(state.maps)
    both = {s: shrunk(mean[s], variance[s], state.maps.count, prior) for s in described}
    return state._replace(
      cells=moments.start(state.cells.first),
      maps=moments.start(state.maps.first),
      centre={s: m for s, (m, _) in both.items()},
      spread={s: d for s, (_, d) in both.items()},
    )

  def score(state: State, batch: Batch) -> Scores:
    pixel = jnp.zeros(batch.image.shape[:3])
    for stage, error in errors(state, state.params, normal(state, batch)).items():
      grid = jnp.mean((error - state.centre[stage]) / state.spread[stage], axis=1)
      pixel += jax.image.resize(grid, pixel.shape, "bilinear", antialias=False) / len(described)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs)
