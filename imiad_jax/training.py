"""Learning: a method's compiled functions, for one State or for replicas of it at once.

An epoch is one compiled loop over batches that are gathered on the device; where a task's arrays do
not fit there, its batches are sent one by one. Replicas are States that differ by their seeds and
are trained together by `jax.vmap`: all of their arrays have a leading axis r, which a single State
does not have.
"""

import functools
import json
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imiad_jax import features, parallel, plugins
from imiad_jax.errors import UserError
from imiad_jax.types import Batch, Logs, Method, Scores, Spec, State

_LOG = logging.getLogger(__name__)
_QUIET = 10.0  # seconds between two lines about progress

RESIDENT = 4 << 30
"""Bytes of a task's arrays that may lie on a device that does not tell how much memory it has."""

Data = dict[str, Any]  # "image" [n,h,w,3] uint8, "features" {stage: [n,h',w',c]}; more if told


class Built(NamedTuple):
  """A method with its compiled functions."""

  method: Method
  replicas: int
  init: Callable[..., State]  # (keys, spec, the backbone's params)
  epoch: Callable[..., tuple[State, Logs]]  # (State, Data, rows, steps, number, shared)
  step: Callable[..., tuple[State, Logs]]  # (State, Data of one batch, rows, most, number)
  finish: Callable[[State], State]
  score: Callable[[State, Data], Scores]  # of a single State


class Told(NamedTuple):
  """What a task tells its learner."""

  data: Data  # of `most` rows
  n: int  # how many of them there are
  most: int
  shared: bool  # whether all replicas learn the same rows, else `data` has their axis too


def build(name: str, kw: dict[str, Any], replicas: int = 1) -> Built:
  """Makes a method and its compiled functions, once for each set of hyperparameters.

  Raises:
    UserError: a hyperparameter that the method does not take.
  """
  return _build(name, json.dumps(kw, sort_keys=True), replicas)


@functools.lru_cache(maxsize=8)
def _build(name: str, kw: str, replicas: int) -> Built:
  given = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(kw).items()}
  try:
    method = plugins.load("methods", name).Model(**given)
  except (TypeError, ValueError) as e:
    raise UserError(f"{name} does not take these hyperparameters: {e}.") from e

  def each(fn: Callable[..., Any], *axes: int | None) -> Callable[..., Any]:
    return fn if replicas == 1 else jax.vmap(fn, in_axes=axes)

  def init(keys: jax.Array, spec: Spec, params: Any) -> State:
    return _strong(each(lambda key, params: method.init(key, spec, params), 0, None)(keys, params))

  def learn(state: State, data: Data, row: jax.Array, most: int, number: jax.Array):
    region = data.get("region", jnp.zeros(data["image"].shape[:3], jnp.int32))
    return method.update(state, _batch(data, data["label"], region, row, number, row < most))

  def epoch(
    state: State, data: Data, rows: jax.Array, steps: jax.Array, number: jax.Array, shared: bool
  ):
    def one(state: State, data: Data, rows: jax.Array) -> tuple[State, Logs]:
      most = len(data["image"])

      @jax.jit  # so that it is traced once for the loop and for the shapes of its logs
      def step(state: State, data: Data, row: jax.Array) -> tuple[State, Logs]:
        taken = jax.tree.map(lambda x: x[jnp.minimum(row, most - 1)], data)
        return learn(state, taken, row, most, number)

      def add(i: jax.Array, carry: tuple[State, Logs]) -> tuple[State, Logs]:
        state, logs = step(carry[0], data, rows[i])
        return state, jax.tree.map(jnp.add, carry[1], logs)

      _, logs = jax.eval_shape(step, state, data, rows[0])
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), logs)
      state, total = jax.lax.fori_loop(0, steps, add, (state, zeros))
      return state, jax.tree.map(lambda x: x / steps, total)

    return each(one, 0, None if shared else 0, 0)(state, data, rows)

  def step(state: State, data: Data, row: jax.Array, most: int, number: jax.Array):
    one = lambda state, data, row: learn(state, data, row, most, number)  # noqa: E731
    return each(one, 0, 0, 0)(state, data, row)

  def finish(state: State) -> State:
    return _strong(each(method.finish, 0)(state))

  def score(state: State, data: Data) -> Scores:
    return method.score(state, untold(data))

  return Built(
    method,
    replicas,
    jax.jit(init, static_argnums=1),
    jax.jit(epoch, static_argnums=5, donate_argnums=0),
    jax.jit(step, static_argnums=3, donate_argnums=0),
    jax.jit(finish, donate_argnums=0),
    parallel.chunked(score, method.batch),
  )


def _strong(state: State) -> State:
  """Returns the State without weak types, which the first steps would lose, compiled anew each."""
  return jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)


def check(built: Built) -> Method:
  """Returns the method, or raises UserError where it cannot start on its backbone."""
  method = built.method
  for name in ("size", "batch", "epochs"):
    if getattr(method, name) < 1:
      raise UserError(f"{name} is {getattr(method, name)}, but should be at least 1.")
  net = features.backbone(method.backbone)
  shapes = features.shapes(net, method.stages, method.size)
  for stage, shape in shapes:
    if len(shape) != 3:
      raise UserError(f'The stage "{stage}" of {net.name} is no grid of cells; take another one.')
  spec = Spec((method.size, method.size, 3), shapes, max_train=8, num_tasks=1)
  jax.eval_shape(lambda key, params: method.init(key, spec, params), jax.random.key(0), net.params)
  return method


def untold(data: Data) -> Batch:
  """Returns a batch to be scored: neither label nor mask of its images is told."""
  n = len(data["image"])
  nothing = jnp.full(n, -1, jnp.int32)
  region = jnp.zeros(data["image"].shape[:3], jnp.int32)
  return _batch(data, nothing, region, nothing, jnp.int32(0), jnp.ones(n, bool))


def _batch(data: Data, label: Any, region: Any, row: Any, epoch: Any, valid: Any) -> Batch:
  image = data["image"].astype(jnp.float32) / 255
  return Batch(image, label, region, row, epoch, valid, data["features"])


def start(built: Built, most: int, tasks: int, seeds: list[int]) -> State:
  """Returns the first State for so many tasks, each padded to `most` rows."""
  method = built.method
  net = features.backbone(method.backbone)
  shapes = features.shapes(net, method.stages, method.size)
  spec = Spec((method.size, method.size, 3), shapes, most, tasks)
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  return built.init(keys if built.replicas > 1 else keys[0], spec, net.params)


def learn(
  built: Built,
  state: State,
  told: Told,
  seeds: list[int],
  passed: int = 0,
  after: Callable[[int, State, Logs], None] = lambda *_: None,
) -> tuple[State, dict[str, float]]:
  """Learns one task: each of its rows once an epoch, in an order drawn from the replica's seed.

  Args:
    built: the method.
    state: as it is before the task, or with the epochs of it that are passed already.
    told: what the task tells.
    seeds: of each replica.
    passed: how many epochs are.
    after: called after each epoch with the number of epochs passed by then, the State and logs.

  Returns:
    The new State and the mean of each log over the last epoch.
  """
  method, most, n = built.method, told.most, told.n
  steps = -(-n // method.batch)
  rngs = [np.random.default_rng(seed) for seed in seeds]
  fits = sum(x.nbytes for x in jax.tree.leaves(told.data)) <= _room()
  data = jax.device_put(told.data) if fits else told.data
  logs: Logs = {}
  said = began = time.perf_counter()
  for number in range(method.epochs):
    rows = np.full((built.replicas, -(-most // method.batch) * method.batch), most, np.int32)
    rows[:, :n] = [rng.permutation(n) for rng in rngs]
    rows = rows.reshape(built.replicas, -1, method.batch)
    rows = rows if built.replicas > 1 else rows[0]
    if number < passed:
      continue  # what was drawn for it is drawn, so that the next order is the same
    if fits:
      state, logs = built.epoch(state, data, rows, np.int32(steps), np.int32(number), told.shared)
    else:
      state, logs = _streamed(built, state, told, rows, steps, number)
    jax.block_until_ready(logs)
    after(number + 1, state, logs)
    now = time.perf_counter()
    if now - said > _QUIET:
      left = (now - began) / (number + 1 - passed) * (method.epochs - number - 1)
      _LOG.info("epoch %d/%d%s, %.0f s left", number + 1, method.epochs, written(logs), left)
      said = now
  return built.finish(state), {k: float(jnp.mean(v)) for k, v in logs.items()}


def written(logs: dict[str, Any]) -> str:
  """Returns logs as text to be appended, each the mean over replicas."""
  return "".join(f", {k} {float(jnp.mean(v)):.3g}" for k, v in logs.items())


def _streamed(
  built: Built, state: State, told: Told, rows: np.ndarray, steps: int, number: int
) -> tuple[State, Logs]:
  """Does one epoch with arrays that stay on the host but for a batch at a time."""
  total: list[Logs] = []
  place = np.minimum(rows, told.most - 1)
  replica = () if told.shared else (np.arange(built.replicas)[:, None],)
  for i in range(steps):
    at = (*replica, place[..., i, :])
    taken = jax.tree.map(lambda x, at=at: x[at], told.data)
    state, logs = built.step(state, taken, rows[..., i, :], told.most, np.int32(number))
    total.append(logs)
  return state, jax.tree.map(lambda *x: sum(x) / steps, *total)


def _room() -> int:
  """Returns the bytes that a task's arrays may have on the device: half of its memory."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("bytes_limit", 2 * RESIDENT) // 2
