"""The only loops of the package: learn a task, score what was seen, measure it.

A run is a sequence of tasks over one State. After each task every task so far is tested, so that
the unsupervised setting is the case of one task.
"""

import functools
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from imiad_jax import features, measures, parallel, plugins, views
from imiad_jax.errors import UserError
from imiad_jax.types import Batch, Index, Method, Run, Scores, Spec, State, Task

_LOG = logging.getLogger(__name__)

Data = dict[str, Any]  # "image" [n,h,w,3] uint8 and "features" {stage: [n,h',w',c]}


class Built(NamedTuple):
  """A method with its compiled functions."""

  method: Method
  update: Callable[..., Any]
  finish: Callable[[State], State]
  score: Callable[[State, Data], Scores]


class Outcome(NamedTuple):
  """What testing one category after learning a task gave."""

  learnt: int  # number of the task learnt last
  task: int  # number of the task that the category belongs to
  category: str
  rows: np.ndarray  # [m] of the index
  metrics: measures.Measured
  scores: Scores  # numpy arrays, one for each row
  seconds: dict[str, float]


class Failed(Exception):
  """A run that cannot give a result, such as one whose scores are not finite."""


def build(name: str, kw: dict[str, Any]) -> Built:
  """Makes a method and its compiled functions, once for each set of hyperparameters."""
  return _build(name, json.dumps(kw, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _build(name: str, kw: str) -> Built:
  given = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(kw).items()}
  try:
    method = plugins.load("methods", name).Model(**given)
  except (TypeError, ValueError) as e:
    raise UserError(f"{name} does not take these hyperparameters: {e}.") from e

  def update(state: State, data: Data, rows: jax.Array, valid: jax.Array, epoch: jax.Array):
    taken = jax.tree.map(lambda x: x[rows], data)
    row = jnp.where(valid, rows, len(data["image"]))
    region = taken.get("region", jnp.zeros(taken["image"].shape[:3], jnp.int32))
    return method.update(state, _batch(taken, taken["label"], region, row, epoch, valid))

  def score(state: State, data: Data) -> Scores:
    return method.score(state, untold(data))

  return Built(
    method,
    jax.jit(update, donate_argnums=0),
    jax.jit(method.finish, donate_argnums=0),
    parallel.chunked(score, method.batch),
  )


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


def start(built: Built, rows: list[int], seed: int) -> tuple[State, int]:
  """Returns the first State for tasks of so many rows, and the rows that each is padded to."""
  method = built.method
  net = features.backbone(method.backbone)
  most = parallel.bucket(max(rows))
  shapes = features.shapes(net, method.stages, method.size)
  spec = Spec((method.size, method.size, 3), shapes, most, len(rows))
  return jax.jit(method.init, static_argnums=1)(jax.random.key(seed), spec, net.params), most


def learn(
  built: Built, state: State, data: Data, n: int, seed: int
) -> tuple[State, dict[str, float]]:
  """Learns one task: each of its first n rows once an epoch, in an order drawn from `seed`.

  Returns the new State and the mean of each log over the last epoch.
  """
  size = built.method.batch
  rng = np.random.default_rng(seed)
  logs: list[Any] = []
  for epoch in range(built.method.epochs):
    order = rng.permutation(n)
    logs = []
    for first in range(0, n, size):
      rows = order[first : first + size]
      valid = np.arange(size) < len(rows)
      rows = parallel.pad(rows.astype(np.int32), size)
      state, log = built.update(state, data, rows, valid, np.int32(epoch))
      logs.append(log)
  means = {k: float(np.mean([log[k] for log in logs])) for k in logs[0]}
  return built.finish(state), means


def run(
  what: Run, store: features.Store, last: Callable[[Built, State], None] = lambda *_: None
) -> Iterator[Outcome]:
  """Runs one Run; yields an Outcome for every category tested, in the order they are tested.

  `last` is called with the method and its State after the last task.

  Raises:
    UserError: the setting or method refuses what it was given.
    Failed: scores that are not finite.
  """
  built = build(what.method, what.method_kw)
  setting = plugins.load("settings", what.setting)
  tasks = setting.tasks(store.index, what.categories, what.seed, **what.setting_kw)
  tasks = tasks if built.method.supervised else [_normal_only(task) for task in tasks]
  state, most = start(built, [len(t.train) * views.copies(t.view) for t in tasks], what.seed)
  for i, task in enumerate(tasks):
    began = time.perf_counter()
    data, n = _told(built.method, store, task, most, what.seed)
    fetched = time.perf_counter()
    state, logs = learn(built, state, data, n, _seed(what.seed, i))
    jax.block_until_ready(state)
    del data
    learnt = time.perf_counter()
    said = "".join(f", {k} {v:.3g}" for k, v in logs.items())
    _LOG.info(
      "task %d/%d %s: learnt %d images in %.1f s%s",
      *(i + 1, len(tasks), task.name, n, learnt - fetched, said),
    )
    seconds = {"fetch": fetched - began, "learn": learnt - fetched}
    for j, seen in enumerate(tasks[: i + 1]):
      for category, rows in seen.tests.items():
        if len(rows):
          found, scores, spent = _test(built, state, store, category, rows)
          yield Outcome(i, j, category, rows, found, scores, _sum(seconds, spent))
          seconds = {}
  last(built, state)


def _normal_only(task: Task) -> Task:
  """Returns the task without the rows told anomalous: for a method that does not use labels."""
  return task._replace(train=task.train[task.label == 0], label=task.label[task.label == 0])


def _told(
  method: Method, store: features.Store, task: Task, most: int, seed: int
) -> tuple[Data, int]:
  """Returns what a task tells its learner, on the device and padded to `most` rows; and how many.

  That is its images, their views and features, what is told of labels and, if it is, of masks.
  """
  net = features.backbone(method.backbone)
  pixels = store.pixels(task.train, method.size)
  if task.view == "none":
    image = pixels.image
    found = store.features(task.train, method.backbone, method.stages, method.size)
  else:  # views are of few images, and of these alone
    image = views.add(pixels.image, task.view, seed)
    found = features.extract(net, method.stages, image)
  data = {"image": image, "features": found}
  data["label"] = np.tile(task.label, views.copies(task.view)).astype(np.int32)
  if task.masks and method.supervised:
    data["region"] = pixels.region.astype(np.int32)
  return jax.tree.map(lambda x: jax.device_put(parallel.pad(x, most)), data), len(image)


def _test(
  built: Built, state: State, store: features.Store, category: str, rows: np.ndarray
) -> tuple[measures.Measured, Scores, dict[str, float]]:
  """Scores and measures one category; what is scored carries neither label nor mask."""
  method = built.method
  began = time.perf_counter()
  image = store.pixels(rows, method.size).image
  frozen = store.features(rows, method.backbone, method.stages, method.size)
  fetched = time.perf_counter()
  scores = built.score(state, {"image": image, "features": frozen})
  scored = time.perf_counter()
  for name, values in scores._asdict().items():
    if values is not None and not np.isfinite(values).all():
      bad = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
      raise Failed(f"{name} scores of {bad} of {len(values)} images of {category} are not finite")
  found = measures.measure(scores, rows, store, method.size)
  done = time.perf_counter()
  spent = {"fetch": fetched - began, "score": scored - fetched, "measure": done - scored}
  return found, scores, spent


def _sum(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
  return {k: a.get(k, 0) + b.get(k, 0) for k in a | b}


def _seed(seed: int, task: int) -> int:
  return int(np.random.SeedSequence((seed, task)).generate_state(1)[0])


def categories(index: Index) -> tuple[str, ...]:
  """Returns the categories of a data set in the order of its rows: alphabetical, by data set."""
  return tuple(dict.fromkeys(index.category.tolist()))
