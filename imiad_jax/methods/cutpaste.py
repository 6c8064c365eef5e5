"""CutPaste: a Gaussian of the embeddings of a network that tells images from pasted ones.

Li, Sohn, Yoon, Pfister: CutPaste, Self-Supervised Learning for Anomaly Detection and Localization.
CVPR 2021, arXiv 2104.04015. There is no code by the authors; this follows the common PyTorch
version: an image and its copies with a pasted rectangle and a pasted scar go through the network
together, cross entropy tells the classes apart, plain SGD with a cosine. Then one Gaussian with
Ledoit-Wolf covariance is fitted to the unit embeddings of the training images as they are, and the
Mahalanobis distance is the score. A later task goes on from these weights, with its own cosine and
its own Gaussian.

What differs: the networks are pretrained, and have batch norm folded into convolutions, which are
trained as they are. The published runs of that version count 10,000 steps; `epochs` counts passes
over the task, 1250 of which are that many steps for the 242 images that a category of MVTec AD has
on average. Scars, given in pixels of an image of 256, are scaled with the image. The colour jitter
has one order of operations. The method does not localise.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from imiad_jax import images
from imiad_jax.heads import embedding as embeddings
from imiad_jax.heads import gaussian
from imiad_jax.heads.layers import Conv, Norm
from imiad_jax.plugins import check, need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {
  "embedding": "layer3",
  "frozen": ("stem", "layer1", "layer2"),
  "size": 128,
  "epochs": 24,
  "batch": 16,
  "lr": 0.005,  # at the paper's, training of a network without batch norm may diverge
  "warmup": 8,
}


class State(NamedTuple):
  """n training rows of the largest task, d numbers an embedding."""

  params: Any  # what is trained: parts of the backbone
  frozen: Any  # its other parts
  head: Any  # parameters of Head
  optimiser: Any  # of (params, head)
  step: Array  # [] int32: steps made
  begun: Array  # [] int32: those made before this task
  length: Array  # [] int32: steps of a pass over the task, counted in its first
  embedding: Float[Array, "n d"]  # of the task's images, by training row; unit length
  present: Bool[Array, " n"]
  mean: Float[Array, " d"]
  white: Float[Array, "d d"]  # of the covariance: gaussian.whitening
  key: Array


class Head(nn.Module):
  """A perceptron with batch norm, from embeddings to logits."""

  widths: tuple[int, ...]
  classes: int

  @nn.compact
  def __call__(
    self, z: Float[Array, "b d"], valid: Bool[Array, " b"] | None
  ) -> Float[Array, "b classes"]:
    """Returns the logits."""
    x = z[:, None, None]  # linear maps are convolutions of one cell
    for i, width in enumerate(self.widths):
      x = Conv(width, 1, name=f"linear{i}")(x)
      x = nn.relu(Norm(name=f"norm{i}")(x, valid))
    return Conv(self.classes, 1, name="out")(x)[:, 0, 0]


def rectangle_or_scar(
  key: Array, image: Float[Array, "h w 3"], strength: float
) -> tuple[Float[Array, "h w 3"], Bool[Array, "h w"]]:
  """Pastes one of the two, by the toss of a coin."""
  coin_key, paste_key = jax.random.split(key)
  coin = jax.random.bernoulli(coin_key)
  rectangle = images.cutpaste(paste_key, image, strength=strength)
  scar = images.scar(paste_key, image, strength)
  return jax.tree.map(lambda a, b: jnp.where(coin, a, b), rectangle, scar)


def _rectangle(key: Array, image: Array, strength: float) -> tuple[Array, Array]:
  return images.cutpaste(key, image, strength=strength)


KINDS = {
  "rectangle": (_rectangle,),
  "scar": (images.scar,),
  "union": (rectangle_or_scar,),
  "3way": (_rectangle, images.scar),
}


def sgd(momentum: float, weight_decay: float) -> optax.GradientTransformation:
  """Returns torch's SGD but for the learning rate: decay is in the gradient."""
  return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum))


def Model(
  backbone: str = "resnet18",
  embedding: str = "embedding",
  frozen: tuple[str, ...] = (),
  patches: str = "3way",
  size: int = 256,
  epochs: int = 1250,
  batch: int = 32,
  lr: float = 0.03,
  momentum: float = 0.9,
  weight_decay: float = 3e-5,
  warmup: int = 20,
  head: tuple[int, ...] = (512, 128),
  jitter: float = 0.1,
) -> Method:
  """Builds CutPaste.

  Args:
    backbone: a pretrained network; it is fine-tuned.
    embedding: its stage that is the embedding; a grid is averaged over its cells.
    frozen: parts of the backbone that are not trained.
    patches: what is pasted: "rectangle", "scar", "union" (one or the other), or "3way" (both, each
      a class of its own).
    size: height and width of the images.
    epochs: passes over each task; the cosine of the learning rate restarts with each task, and
      falls with each step after the first pass. One more pass, at the rate 0 where the cosine ends,
      collects the embeddings.
    batch: images at once; the network sees two or three times as many.
    lr: learning rate in a task's first pass.
    momentum: of SGD.
    weight_decay: L2 penalty.
    warmup: first steps of all, in which the head alone is trained.
    head: widths of the layers between embedding and logits.
    jitter: strength of the colour jitter of images and patches.

  Raises:
    ValueError: a hyperparameter outside its range.
    UserError: there are no such patches.
  """
  need(epochs >= 1, "epochs", epochs, "at least 1")
  need(lr >= 0, "lr", lr, "at least 0")
  need(0 <= momentum < 1, "momentum", momentum, "at least 0 and below 1")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(warmup >= 0, "warmup", warmup, "at least 0")
  need(all(width >= 1 for width in head), "head", head, "widths of at least 1")
  need(0 <= jitter < 0.5, "jitter", jitter, "at least 0 and below 0.5")
  check("kind of patches", patches, KINDS)
  paste = KINDS[patches]
  optimiser = sgd(momentum, weight_decay)
  embed = embeddings.embedder(backbone, embedding)
  classifier = Head(head, 1 + len(paste))

  def augment(key: Array, image: Float[Array, "h w 3"]) -> Float[Array, "k h w 3"]:
    """Returns an image and its copies, one of each class."""
    jitter_key, *keys = jax.random.split(key, 1 + len(paste))
    image = images.jitter(jitter_key, image, jitter)
    return jnp.stack([image, *(p(k, image, jitter)[0] for p, k in zip(paste, keys, strict=True))])

  def init(key: Array, spec: Spec, pretrained) -> State:
    key, head_key = jax.random.split(key)
    tuned = embeddings.start(backbone, embedding, frozen, pretrained, spec.image)
    n, d = spec.max_train, tuned.dim
    weights = classifier.init(head_key, jnp.zeros((1, d)), None)["params"]
    return State(
      params=tuned.params,
      frozen=tuned.frozen,
      head=weights,
      optimiser=optimiser.init((tuned.params, weights)),
      step=jnp.int32(0),
      begun=jnp.int32(0),
      length=jnp.int32(1),
      embedding=jnp.zeros((n, d)),
      present=jnp.zeros(n, bool),
      mean=jnp.zeros(d),
      white=jnp.eye(d),
      key=key,
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    b, k = len(batch.valid), 1 + len(paste)
    key, paste_key = jax.random.split(state.key)
    made = jax.vmap(augment)(jax.random.split(paste_key, b), batch.image)
    made = made.reshape(b * k, *made.shape[2:])
    valid, label = jnp.repeat(batch.valid, k), jnp.tile(jnp.arange(k), b)

    def loss(trained: Any) -> Array:
      params, weights = trained
      z = embed(params | state.frozen, made)
      logits, _ = classifier.apply({"params": weights}, z, valid, mutable=["batch_stats"])
      each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
      return jnp.sum(jnp.where(valid, each, 0)) / jnp.maximum(jnp.sum(valid), 1)

    trained = (state.params, state.head)
    value, gradient = jax.value_and_grad(loss)(trained)
    done = state.step - state.begun
    length = jnp.where(batch.epoch == 0, done + 1, state.length)
    passes = jnp.where(batch.epoch == 0, 0, done / length)
    rate = lr * 0.5 * (1 + jnp.cos(math.pi * jnp.minimum(passes / epochs, 1)))
    warm = state.step >= warmup  # before that the backbone stands still, and gains no momentum
    held = jax.tree.map(lambda x: jnp.where(warm, x, 0), (gradient[0], state.params))
    step, opt = optimiser.update((held[0], gradient[1]), state.optimiser, (held[1], state.head))
    params, weights = jax.tree.map(lambda x, dx: x - rate * dx, trained, step)
    z = embeddings.unit(embed(params | state.frozen, batch.image))
    return state._replace(
      params=params,
      head=weights,
      optimiser=opt,
      step=state.step + 1,
      length=length,
      embedding=state.embedding.at[batch.row].set(z, mode="drop"),
      present=state.present.at[batch.row].set(True, mode="drop"),
      key=key,
    ), {"loss": value}

  def finish(state: State) -> State:
    mean, factor = embeddings.fit(state.embedding, state.present)
    white = gaussian.whitening(factor)
    gone = jnp.zeros_like(state.present)
    return state._replace(present=gone, mean=mean, white=white, begun=state.step)

  def score(state: State, batch: Batch) -> Scores:
    z = embeddings.unit(embed(state.params | state.frozen, batch.image))
    return Scores(gaussian.mahalanobis(z, state.mean, state.white), None)

  return Method(init, update, finish, score, backbone, (), size, batch, epochs + 1)
