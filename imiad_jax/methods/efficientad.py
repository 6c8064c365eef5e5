"""EfficientAD: a student that fails where its teacher is new to it, or an auto-encoder to both.

Batzner, Heckler, Koenig: EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level
Latencies. WACV 2024, arXiv 2303.14535. There is no code by the authors; this follows
github.com/nelson1425/EfficientAD, which reaches their numbers. A small patch description network
(PDN), the student, learns to predict the features of a frozen teacher on normal images, by those it
predicts worst, and to predict nothing on other pictures. An auto-encoder predicts the teacher from
the whole image, and the student's other half the auto-encoder: what their maps say is brought to
one scale by quantiles of held-out normal images, and averaged.

What differs: the teacher is the backbone, so that any other one than the original PDN can be
taken; heads/pdn.py says how the two networks then predict its grid. Steps are passes over the
images: a first one measures the teacher's channels (theirs are two more), the others learn, and the
learning rate falls after 95 % of these. Every tenth training row is held out (theirs: a tenth,
drawn); where there are fewer than ten, the quantiles are of the training images. The loss of the
hardest features is each image's own, averaged over a batch (theirs has one image), and of a colour
jitter each view has one operation, done after the image is resized. Their other pictures are
ImageNet's, each seen once or never; here they are at most `sources` of a folder named as `textures`
(which is recorded with the result, its pictures are not), else as many drawn ones
(imiad_jax/textures.py), and none for `sources` 0. In a later task both networks go on.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, UInt8

from imiad_jax import images, plugins
from imiad_jax import textures as drawn
from imiad_jax.heads import pdn
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
SMALL = {  # what two CPU cores can pay for
  "stage": "layer2",
  "width": 16,
  "bottleneck": 16,
  "hard": 0.99,  # of its 32 x 32 x 40 features, a tenth as many as the paper's
  "size": 256,
  "epochs": 20,
  "batch": 2,
  "lr": 2e-3,
  "sources": 0,
}
_FOLD = 10  # one row in so many is held out


class State(NamedTuple):
  """c channels of the teacher, s other pictures, k images kept."""

  trained: Any  # parameters: {"student": ..., "autoencoder": ...}
  optimiser: Any
  teacher: Any  # the backbone's parameters
  others: UInt8[Array, "s h w 3"]
  count: Array  # [] float32: images of the task measured so far
  shift: Float[Array, " c"]  # mean of the task's first batch
  first: Float[Array, " c"]  # sum over images of the mean over cells of x - shift
  second: Float[Array, " c"]  # the same of (x - shift)^2
  mean: Float[Array, " c"]  # of the last task finished
  deviation: Float[Array, " c"]
  kept: UInt8[Array, "k h w 3"]  # the first rows of the task, then those held out
  present: Bool[Array, " k"]
  low: Float[Array, " 2"]  # quantiles of the student's and of the auto-encoder's map
  high: Float[Array, " 2"]
  loss: Array  # [] float32: of the last step
  key: Array


def hardest(error: Float[Array, "*b h w c"], quantile: float) -> Float[Array, "*b"]:
  """Returns the mean of each image's errors that are not below their quantile.

  The quantile interpolates linearly, so that these are a fixed number of largest errors.
  """
  flat = error.reshape(*error.shape[:-3], -1)
  n = flat.shape[-1]
  return jnp.mean(jax.lax.top_k(flat, n - math.ceil(quantile * (n - 1)))[0], axis=-1)


def recoloured(key: Array, image: Float[Array, "h w 3"], strength: float) -> Float[Array, "h w 3"]:
  """Multiplies brightness, contrast or saturation by U(1 - strength, 1 + strength).

  As Pillow does it: away from black, from the mean grey or from each pixel's own.
  """
  kind_key, factor_key = jax.random.split(key)
  factor = jax.random.uniform(factor_key, minval=1 - strength, maxval=1 + strength)
  grey = jnp.broadcast_to((image @ images.GREY)[..., None], image.shape)
  origin = jnp.stack([jnp.zeros_like(image), jnp.full_like(image, jnp.mean(grey)), grey])
  origin = origin[jax.random.randint(kind_key, (), 0, len(origin))]
  return jnp.clip(origin + factor * (image - origin), 0, 1)


def Model(
  backbone: str = "pdn_small",
  stage: str = "teacher",
  student: str = "small",
  width: int = 128,
  bottleneck: int = 64,
  hard: float = 0.999,
  jitter: float = 0.2,
  dropout: float = 0.2,
  textures: str = "",
  sources: int = 512,
  size: int = 256,
  epochs: int = 322,
  batch: int = 1,
  lr: float = 1e-4,
  weight_decay: float = 1e-5,
) -> Method:
  """Builds EfficientAD; its defaults are EfficientAD-S.

  Args:
    backbone: the teacher; for EfficientAD-M "pdn_medium".
    stage: its stage that is predicted.
    student: kind of the student, "small" or, for EfficientAD-M, "medium".
    width: channels of the student's first convolution; for EfficientAD-M 256.
    bottleneck: numbers that the auto-encoder knows an image by.
    hard: quantile from which on errors are learnt from.
    jitter: most relative change of the colours that the auto-encoder is shown.
    dropout: share of the auto-encoder's values dropped.
    textures: a folder with natural pictures in it or below; empty for drawn textures.
    sources: most of them kept, each size x size x 3 bytes; 0 for none.
    size: height and width of the images, at least 32.
    epochs: passes over each task, at least 2. One measures; the other 321 are the authors' 70,000
      steps for the mean category of MVTec AD, 218 images beside those held out.
    batch: images at once.
    lr: learning rate of Adam at first.
    weight_decay: L2 penalty, added to the gradient as torch's Adam does.

  Raises:
    ValueError: a hyperparameter outside its range.
    UserError: a folder without pictures.
  """
  need(student in pdn.KINDS, "student", student, f"one of {', '.join(pdn.KINDS)}")
  need(width >= 1, "width", width, "at least 1")
  need(bottleneck >= 2, "bottleneck", bottleneck, "at least 2")
  need(0 <= hard < 1, "hard", hard, "at least 0 and below 1")
  need(0 <= jitter <= 1, "jitter", jitter, "between 0 and 1")
  need(0 <= dropout < 1, "dropout", dropout, "at least 0 and below 1")
  need(sources >= 0, "sources", sources, "at least 0")
  need(size >= 32, "size", size, "at least 32")
  need(epochs >= 2, "epochs", epochs, "at least 2")
  need(lr >= 0, "lr", lr, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  network = plugins.backbone(backbone).Model(backbone)
  pictures = None
  if textures and sources:  # their middle, at twice the size, as the authors cut ImageNet's
    middle = slice(size // 2, size // 2 + size)
    pictures = drawn.read(textures, sources, 2 * size)[:, middle, middle]
  optimiser = optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam())

  def networks(shape: tuple[int, ...]) -> tuple[pdn.PDN, pdn.AutoEncoder]:
    """Returns the student and the auto-encoder of grids [..,cells,cells,channels]."""
    cells, c = shape[-2:]
    one = pdn.PDN(student, width, 2 * c, cells)
    return one, pdn.AutoEncoder(c, cells, bottleneck, dropout)

  def teach(params: Any, image: Float[Array, "b h w 3"]) -> Float[Array, "b i j c"]:
    return network.apply({"params": params}, image)[stage]

  def maps(
    trained: Any, image: Float[Array, "b h w 3"], target: Float[Array, "b i j c"]
  ) -> Float[Array, "b i j 2"]:
    """Returns the student's and the auto-encoder's squared errors, means over channels."""
    one, other = networks(target.shape)
    x = images.standardise(image)
    near, far = jnp.split(jnp.asarray(one.apply(trained["student"], x)), 2, axis=-1)
    guess = jnp.asarray(other.apply(trained["autoencoder"], x, train=False))
    error = (target - near, guess - far)
    return jnp.mean(jnp.square(jnp.stack(error, axis=-2)), axis=-1)

  def init(key: Array, spec: Spec, pretrained) -> State:
    key, student_key, autoencoder_key, others_key = jax.random.split(key, 4)
    shape, image = spec.shape(stage), jnp.zeros((1, *spec.image))
    one, other = networks(shape)
    trained = {
      "student": one.init(student_key, image),
      "autoencoder": other.init(autoencoder_key, image, train=False),
    }
    others = drawn.stack(others_key, sources, size, size) if pictures is None else pictures
    k, channels = _FOLD - 1 + spec.max_train // _FOLD, jnp.zeros(shape[-1])
    return State(
      trained=trained,
      optimiser=optimiser.init(trained),
      teacher=pretrained,
      others=jnp.asarray(others),
      count=jnp.float32(0),
      shift=channels,
      first=channels,
      second=channels,
      mean=channels,
      deviation=channels + 1,
      kept=jnp.zeros((k, *spec.image), jnp.uint8),
      present=jnp.zeros(k, bool),
      low=jnp.zeros(2),
      high=jnp.ones(2),
      loss=jnp.float32(0),
      key=key,
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    learnt = batch.valid & (batch.row % _FOLD != _FOLD - 1)
    what = jnp.where(batch.epoch == 0, 0, jnp.where(jnp.any(learnt), 1, 2))
    state = jax.lax.switch(what, (observe, learn, lambda s, *_: s), state, batch, learnt)
    return state, {"loss": state.loss}

  def observe(state: State, batch: Batch, learnt: Bool[Array, " b"]) -> State:
    """Adds to the statistics of the teacher, and keeps what the quantiles may be of."""
    x, weight = batch.features[stage], learnt.astype(jnp.float32)
    mean = weight @ jnp.mean(x, axis=(1, 2)) / jnp.maximum(jnp.sum(weight), 1)
    shift = jnp.where(state.count == 0, mean, state.shift)
    k = len(state.kept)
    held = jnp.where(learnt, k, _FOLD - 1 + batch.row // _FOLD)
    slot = jnp.where(batch.valid, jnp.where(batch.row < _FOLD - 1, batch.row, held), k)
    image = jnp.round(255 * batch.image).astype(jnp.uint8)
    return state._replace(
      count=state.count + jnp.sum(weight),
      shift=shift,
      first=state.first + weight @ jnp.mean(x - shift, axis=(1, 2)),
      second=state.second + weight @ jnp.mean(jnp.square(x - shift), axis=(1, 2)),
      kept=state.kept.at[slot].set(image, mode="drop"),
      present=state.present.at[slot].set(True, mode="drop"),
    )

  def learn(state: State, batch: Batch, learnt: Bool[Array, " b"]) -> State:
    """Makes one step of Adam."""
    b = len(learnt)
    key, view_key, drop_key, pick_key, grey_key = jax.random.split(state.key, 5)
    view = jax.vmap(recoloured, (0, 0, None))(jax.random.split(view_key, b), batch.image, jitter)
    mean, deviation = moments(state)
    target = (batch.features[stage] - mean) / deviation
    target_of_view = (teach(state.teacher, view) - mean) / deviation
    seen = [batch.image, view]
    if len(state.others):
      picked = state.others[jax.random.randint(pick_key, (b,), 0, len(state.others))] / 255
      grey = jnp.broadcast_to((picked @ images.GREY)[..., None], picked.shape)
      coin = jax.random.bernoulli(grey_key, 0.3, (b, 1, 1, 1))
      seen.append(jnp.where(coin, grey, picked))
    one, other = networks(target.shape)

    def loss(trained: Any) -> Array:
      out = jnp.asarray(one.apply(trained["student"], images.standardise(jnp.concatenate(seen))))
      near, far = jnp.split(out, 2, axis=-1)
      x, rngs = images.standardise(view), {"dropout": drop_key}
      guess = jnp.asarray(other.apply(trained["autoencoder"], x, train=True, rngs=rngs))
      each = hardest(jnp.square(target - near[:b]), hard)
      for error in (target_of_view - guess, guess - far[b : 2 * b], near[2 * b :]):
        each += jnp.mean(jnp.square(error), axis=(1, 2, 3)) if len(error) else 0
      return jnp.sum(jnp.where(learnt, each, 0)) / jnp.sum(learnt)

    value, gradient = jax.value_and_grad(loss)(state.trained)
    step, opt = optimiser.update(gradient, state.optimiser, state.trained)
    rate = lr * jnp.where(batch.epoch - 1 >= 0.95 * (epochs - 1), 0.1, 1.0)
    trained = jax.tree.map(lambda x, dx: x - rate * dx, state.trained, step)
    return state._replace(trained=trained, optimiser=opt, loss=value, key=key)

  def finish(state: State) -> State:
    mean, deviation = moments(state)

    def one(image: UInt8[Array, "h w 3"]) -> Float[Array, "i j 2"]:
      x = image[None].astype(jnp.float32) / 255
      return maps(state.trained, x, (teach(state.teacher, x) - mean) / deviation)[0]

    held = state.present & (jnp.arange(len(state.present)) >= _FOLD - 1)
    used = jnp.where(jnp.any(held), held, state.present)
    normal = jnp.where(used[:, None, None, None], jax.lax.map(one, state.kept), jnp.nan)
    low, high = jnp.nanquantile(normal, jnp.array([0.9, 0.995]), axis=(0, 1, 2))
    return state._replace(
      count=jnp.zeros_like(state.count),
      first=jnp.zeros_like(state.first),
      second=jnp.zeros_like(state.second),
      mean=mean,
      deviation=deviation,
      present=jnp.zeros_like(state.present),
      low=low,
      high=high,
    )

  def score(state: State, batch: Batch) -> Scores:
    target = (batch.features[stage] - state.mean) / state.deviation
    both = maps(state.trained, batch.image, target)
    scaled = 0.1 * (both - state.low) / jnp.maximum(state.high - state.low, 1e-12)
    around = pdn.margins(size, both.shape[1])
    grid = jnp.pad(jnp.mean(scaled, axis=-1), ((0, 0), around, around))
    pixel = jax.image.resize(grid, batch.image.shape[:3], "bilinear", antialias=False)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(init, update, finish, score, backbone, (stage,), size, batch, epochs)


def moments(state: State) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
  """Returns the mean and the deviation of the teacher's channels; 1 for one that never changes."""
  n = jnp.maximum(state.count, 1)
  mean = state.first / n
  variance = state.second / n - jnp.square(mean)
  return state.shift + mean, jnp.where(variance > 1e-10, jnp.sqrt(jnp.abs(variance)), 1)
