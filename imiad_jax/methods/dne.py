"""DNE: a CutPaste classifier, with one stored Gaussian of normal embeddings for every task.

Li, Zhan, Wang, Xia, Gao, Liu, Wang, Zheng: Towards Continual Adaptation in Industrial Anomaly
Detection. ACM Multimedia 2022. Follows the first author's code: pairs of an image and its CutPaste
copy, each turned at random, cross entropy, a head that is frozen after the first task. At a task's
end mean and Ledoit-Wolf covariance of its embeddings are stored, old tasks are replayed by sampling
from their Gaussians, and one Gaussian of everything scores all tasks. No images are kept, no task
id is used.

What differs: the backbone may be any of ours (the paper's is ViT-B/16 with "sam" weights); those
with batch norm have it folded into their convolutions, which are then trained as they are, and each
normalises images as its own weights expect. Of a ViT the whole stem is frozen (patches, class token
and positions), not the patches alone. The colour jitter has one order of operations. The
embeddings are those of the last epoch, taken before each step's update, as in the authors' code.
The image-level score is all there is: the method does not localise.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from imiad_jax import images
from imiad_jax.heads import embedding as embeddings
from imiad_jax.heads import gaussian
from imiad_jax.heads.embedding import unit
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {
  "embedding": "layer3",
  "frozen": ("stem", "layer1", "layer2"),
  "size": 128,
  "epochs": 8,
  "batch": 16,
  "lr": 3e-4,
  "rotation": 0.0,  # so few epochs do not teach a network to see past it
}


class State(NamedTuple):
  """t tasks, n training rows of the largest, d numbers an embedding."""

  params: Any  # what is trained: parts of the backbone
  frozen: Any  # its other parts
  head: Any  # {"kernel" [d,2], "bias" [2]}
  optimiser: Any
  embedding: Float[Array, "n d"]  # of the task's originals, by training row; unit length
  present: Bool[Array, " n"]
  means: Float[Array, "t d"]  # of each task finished
  factors: Float[Array, "t d d"]  # Cholesky factors of their covariances
  counts: Array  # [t] int32: training images of each task
  task: Array  # [] int32: tasks finished
  mean: Float[Array, " d"]  # of the union
  white: Float[Array, "d d"]  # of its covariance: gaussian.whitening
  key: Array


def Model(
  backbone: str = "vit_base_patch16_224",
  embedding: str = "embedding",
  frozen: tuple[str, ...] = ("stem",),
  size: int = 224,
  epochs: int = 50,
  batch: int = 32,
  lr: float = 1e-4,
  weight_decay: float = 3e-5,
  adam_eps: float = 4e-4,
  aspect: float = 0.1,
  jitter: float = 0.1,
  rotation: float = 90.0,
) -> Method:
  """Builds DNE.

  Args:
    backbone: a pretrained network; it is fine-tuned.
    embedding: its stage that is the embedding; a grid is averaged over its cells.
    frozen: parts of the backbone that are not trained (the paper: the patch embedding).
    size: height and width of the images.
    epochs: passes over each task; the cosine of the learning rate restarts with each task.
    batch: images at once; the network sees twice as many.
    lr: learning rate at a task's first epoch.
    weight_decay: L2 penalty, added to the gradient as torch's Adam does.
    adam_eps: epsilon of Adam.
    aspect: the most extreme ratio of a patch's sides is drawn anew from U(aspect, 1) each time.
    jitter: strength of the colour jitter of images and patches.
    rotation: both of a pair are turned by up to so many degrees either way.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(lr >= 0, "lr", lr, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(adam_eps > 0, "adam_eps", adam_eps, "above 0")
  need(0 < aspect <= 1, "aspect", aspect, "above 0 and at most 1")
  need(0 <= jitter < 0.5, "jitter", jitter, "at least 0 and below 0.5")
  need(rotation >= 0, "rotation", rotation, "at least 0")
  embed = embeddings.embedder(backbone, embedding)
  optimiser = optax.chain(
    optax.add_decayed_weights(weight_decay), optax.scale_by_adam(eps=adam_eps)
  )

  def augment(key: Array, image: Float[Array, "h w 3"]) -> tuple[Array, Array]:
    """Returns an image and its CutPaste copy, each turned by an angle of its own."""
    jitter_key, aspect_key, paste_key, turn_key = jax.random.split(key, 4)
    image = images.jitter(jitter_key, image, jitter)
    extreme = jax.random.uniform(aspect_key, minval=aspect, maxval=1.0)
    pasted, _ = images.cutpaste(paste_key, image, extreme, jitter)
    most = math.radians(rotation)
    angle = jax.random.uniform(turn_key, (2,), minval=-most, maxval=most)
    return images.rotate(image, angle[0]), images.rotate(pasted, angle[1])

  def init(key: Array, spec: Spec, pretrained) -> State:
    key, head_key = jax.random.split(key)
    tuned = embeddings.start(backbone, embedding, frozen, pretrained, spec.image)
    kernel = 0.02 * jax.random.truncated_normal(head_key, -2, 2, (tuned.dim, 2))
    head = {"kernel": kernel, "bias": jnp.zeros(2)}
    t, n, d = spec.num_tasks, spec.max_train, tuned.dim
    return State(
      params=tuned.params,
      frozen=tuned.frozen,
      head=head,
      optimiser=optimiser.init((tuned.params, head)),
      embedding=jnp.zeros((n, d)),
      present=jnp.zeros(n, bool),
      means=jnp.zeros((t, d)),
      factors=jnp.zeros((t, d, d)),
      counts=jnp.zeros(t, jnp.int32),
      task=jnp.int32(0),
      mean=jnp.zeros(d),
      white=jnp.eye(d),
      key=key,
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    b = len(batch.valid)
    key, pair_key = jax.random.split(state.key)
    original, pasted = jax.vmap(augment)(jax.random.split(pair_key, b), batch.image)
    pair = jnp.concatenate([original, pasted])
    label = jnp.repeat(jnp.arange(2), b)
    weight = jnp.tile(batch.valid, 2) / jnp.maximum(2 * jnp.sum(batch.valid), 1)

    def loss(trained: Any) -> tuple[Array, Array]:
      params, head = trained
      z = embed(params | state.frozen, pair)
      logits = z @ head["kernel"] + head["bias"]
      each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
      return jnp.sum(each * weight), z[:b]

    trained = (state.params, state.head)
    (value, z), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
    step, opt = optimiser.update(gradient, state.optimiser, trained)
    rate = lr * 0.5 * (1 + jnp.cos(jnp.pi * batch.epoch / epochs))
    params, head = jax.tree.map(lambda x, dx: x - rate * dx, trained, step)
    # From the second task on the head is as the first task left it.
    head = jax.tree.map(lambda new, old: jnp.where(state.task == 0, new, old), head, state.head)
    return state._replace(
      params=params,
      head=head,
      optimiser=opt,
      embedding=state.embedding.at[batch.row].set(unit(z), mode="drop"),
      present=state.present.at[batch.row].set(True, mode="drop"),
      key=key,
    ), {"loss": value}

  def finish(state: State) -> State:
    key, sample_key = jax.random.split(state.key)
    t, n, d = len(state.means), *state.embedding.shape
    mean, factor = embeddings.fit(state.embedding, state.present)
    means = state.means.at[state.task].set(mean)
    factors = state.factors.at[state.task].set(factor)
    counts = state.counts.at[state.task].set(jnp.sum(state.present))
    # As many samples of each old task as it had images; the current task brings its own.
    noise = jax.random.normal(sample_key, (t, n, d))
    sampled = means[:, None] + jnp.einsum("tnd,ted->tne", noise, factors)
    old = (jnp.arange(t) < state.task)[:, None] & (jnp.arange(n) < counts[:, None])
    everything = jnp.concatenate([sampled.reshape(t * n, d), state.embedding])
    valid = jnp.concatenate([old.reshape(t * n), state.present])
    mean, factor = embeddings.fit(unit(everything), valid)
    return state._replace(
      present=jnp.zeros_like(state.present),
      means=means,
      factors=factors,
      counts=counts,
      task=state.task + 1,
      mean=mean,
      white=gaussian.whitening(factor),
      key=key,
    )

  def score(state: State, batch: Batch) -> Scores:
    z = unit(embed(state.params | state.frozen, batch.image))
    return Scores(gaussian.mahalanobis(z, state.mean, state.white), None)

  return Method(init, update, finish, score, backbone, (), size, batch, epochs)
