"""The only loops of the package: learn a task, score what was seen, measure it.

A run is a sequence of tasks over one State. After each task every task so far is tested, so that
the unsupervised setting is the case of one task.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from imiad_jax import features, lessons, measures, parallel, plugins, training, views
from imiad_jax.errors import UserError
from imiad_jax.lessons import Lesson, Memory
from imiad_jax.settings import common
from imiad_jax.training import Built, Data, Told
from imiad_jax.types import Index, Logs, Method, Run, Scores, State, Task

_LOG = logging.getLogger(__name__)


class Outcome(NamedTuple):
  """What testing one category after learning a task gave."""

  learnt: int  # number of the task learnt last
  task: int  # number of the task that the category belongs to
  category: str
  rows: np.ndarray  # [m] of the index
  metrics: measures.Measured
  scores: Scores  # numpy arrays, one for each row
  seconds: dict[str, float]
  final: bool  # whether the task learnt last is the run's last one


class Failed(Exception):
  """A run that cannot give a result, such as one whose scores are not finite."""


class Hooks(NamedTuple):
  """What is called while runs are done; the defaults do nothing."""

  # (the first State) -> the one to begin with, its task, and the epochs of it that are passed
  restore: Callable[[State], tuple[State, int, int]] = lambda state: (state, 0, 0)
  # (task, epochs passed, whether that is a task's end before another one, State)
  keep: Callable[[int, int, bool, State], None] = lambda *_: None
  # (task, epochs passed, logs)
  epoch: Callable[[int, int, Logs], None] = lambda *_: None
  # (the run's number, its method, the State after the last task)
  last: Callable[[int, Built, State], None] = lambda *_: None


_NOTHING = Hooks()


def run(what: Run, store: features.Store) -> Iterator[Outcome]:
  """Runs one Run; yields an Outcome for every category tested, in the order they are tested.

  Raises:
    UserError: the setting or method refuses what it was given.
    Failed: scores that are not finite.
  """
  for _, outcome in together([what], store):
    yield outcome


def together(
  whats: list[Run],
  store: features.Store,
  hooks: Hooks = _NOTHING,
  memory: Memory | None = None,
) -> Iterator[tuple[int, Outcome]]:
  """Runs Runs that differ by their seeds alone as replicas of one; yields each Outcome's run too.

  Outcomes before the State that is restored are not given again. What `memory` has of runs that
  learnt the very same is not learnt again; the seconds and logs are those of then.

  Raises:
    UserError: the setting or method refuses what it was given; the runs are not alike.
    Failed: scores that are not finite.
  """
  what = whats[0]
  if any(w._replace(seed=what.seed) != what for w in whats):
    raise UserError("Replicas are runs that differ by their seeds; these differ by more.")
  built = training.build(what.method, what.method_kw, len(whats))
  taught = [curriculum(w, store.index, built.method) for w in whats]
  if len({tuple(len(t.train) for t in tasks) for tasks in taught}) > 1:
    raise UserError(
      f"The tasks of {what.setting} differ in size from seed to seed; take --config.replicas=1."
    )
  ahead = int(built.method.needs_others)  # the task of the other categories has no number
  for i, state, seconds in _learn(built, whats, taught, store, hooks, memory or Memory()):
    final = i + 1 == len(taught[0])
    for r, tasks in enumerate(taught):
      mine = state if len(whats) == 1 else jax.tree.map(lambda x, r=r: x[r], state)
      spent = {name: value / len(whats) for name, value in seconds.items()}
      for j, seen in enumerate(tasks[: i + 1]):
        for category, rows in seen.tests.items():
          if len(rows):
            found, scores, more = _test(built, mine, store, category, rows)
            at = (i - ahead, j - ahead, category, rows)
            yield r, Outcome(*at, found, scores, _sum(spent, more), final)
            spent = {}
      if final:
        hooks.last(r, built, mine)


def _learn(
  built: Built,
  whats: list[Run],
  taught: list[list[Task]],
  store: features.Store,
  hooks: Hooks,
  memory: Memory,
) -> Iterator[tuple[int, State, dict[str, float]]]:
  """Learns the tasks of replicas; yields each that is tested, the State after it, and seconds.

  The State is given away when the next task begins.
  """
  seeds = [what.seed for what in whats]
  sizes = [len(t.train) * views.copies(t.view) for t in taught[0]]
  most = _most(built.method, max(sizes))
  start = functools.partial(training.start, built, most, len(sizes), seeds)
  keys = lessons.keys(whats, built.method, taught, most, jax.eval_shape(start))
  known = memory.recall(keys)
  if known:
    state, first, passed = known[-1].state, len(known), 0
  else:
    state, first, passed = hooks.restore(start())
  spent: dict[str, float] = {}
  for i, tasks in enumerate(zip(*taught, strict=True)):
    if i < len(known):
      lesson = known[i]
      for number, logs in lesson.logs:
        hooks.epoch(i, number, logs)
    elif i < first:
      continue  # the State that was restored is a later one
    else:
      began = time.perf_counter()
      told = _told(built.method, store, list(tasks), parallel.room(most), seeds)
      fetch = time.perf_counter() - began
      if i and keys[i - 1]:  # what is remembered is not given away
        state = jax.tree.map(lambda x: x.copy(), state)
      own = [_seed(seed, i) for seed in seeds]
      lesson = _lesson(built, state, told, own, passed, (i, len(sizes), tasks[0].name), hooks)
      del told
      lesson = lesson._replace(seconds={"fetch": fetch} | lesson.seconds)
      memory.keep(keys[i], lesson)
      passed = 0
    state, spent = lesson.state, _sum(spent, lesson.seconds)
    if tasks[0].tests:
      yield i, state, spent
      spent = {}


def _most(method: Method, n: int) -> int:
  """Returns how many rows a State gets for tasks of n at most.

  One that is learnt in several passes gets the same for few and for more, so that they share what
  is compiled; one of a single pass is often a bank, of which each row costs at each score.
  """
  return parallel.bucket(n) if method.epochs == 1 else parallel.room(n)


def _lesson(
  built: Built,
  state: State,
  told: Told,
  seeds: list[int],
  passed: int,
  place: tuple[int, int, str],
  hooks: Hooks,
) -> Lesson:
  """Learns a task; its place is its number, how many there are, and its name."""
  i, n, name = place
  logs: list[tuple[int, Logs]] = []
  began = time.perf_counter()

  def after(epoch: int, state: State, found: Logs) -> None:
    hooks.keep(i, epoch, epoch == built.method.epochs and i + 1 < n, state)
    hooks.epoch(i, epoch, found)
    logs.append((epoch, found))

  state, last = training.learn(built, state, told, seeds, passed, after)
  jax.block_until_ready(state)
  spent = time.perf_counter() - began
  said = training.written(last)
  _LOG.info("task %d/%d %s: learnt %d images in %.1f s%s", i + 1, n, name, told.n, spent, said)
  return Lesson(state, {"learn": spent}, logs)


def curriculum(what: Run, index: Index, method: Method) -> list[Task]:
  """Returns what a run learns: only what is told normal if the method does not use labels.

  Raises:
    UserError: the setting refuses its parameters, or lacks what the method needs.
  """
  setting = plugins.load("settings", what.setting)
  met = setting.tasks(index, what.categories, what.seed, **what.setting_kw)
  if method.needs_anomalies and not any(np.any(task.label) for task in met):
    raise UserError(
      f"{what.method} learns from anomalies that are told as such, and {what.setting} tells none; "
      "take fully_supervised."
    )
  met = met if method.supervised else [_normal_only(task) for task in met]
  if not method.needs_others:
    return met
  others = common.others(index, what.categories)
  if not len(others.train):
    raise UserError(
      f"{what.method} learns from other categories before it meets {'+'.join(what.categories)}, "
      f'and {what.dataset} has no others; take few_shot, and data sets together as "a+b".'
    )
  return [others, *met]


def _normal_only(task: Task) -> Task:
  """Returns the task without the rows told anomalous: for a method that does not use labels."""
  return task._replace(train=task.train[task.label == 0], label=task.label[task.label == 0])


def _told(
  method: Method, store: features.Store, tasks: list[Task], most: int, seeds: list[int]
) -> Told:
  """Returns what the same task of each replica tells its learner, padded to `most` rows.

  That is its images, their views and features, and what is told of labels and of masks.
  """
  first = tasks[0]
  rows = [(t.train.tolist(), t.label.tolist()) for t in tasks]
  shared = first.view == "none" and all(r == rows[0] for r in rows)
  n = len(first.train) * views.copies(first.view)
  pairs = [(first, seeds[0])] if shared else zip(tasks, seeds, strict=True)
  parts = [_arrays(method, store, task, most, seed) for task, seed in pairs]
  if shared or len(parts) == 1:
    return Told(parts[0], n, most, True)
  return Told(jax.tree.map(lambda *x: np.stack(x), *parts), n, most, False)


def _arrays(method: Method, store: features.Store, task: Task, most: int, seed: int) -> Data:
  pixels = store.pixels(task.train, method.size)
  if task.view == "none":
    image = pixels.image
    found = store.features(task.train, method.backbone, method.stages, method.size)
  else:  # views are of few images, and of these alone
    image = views.add(pixels.image, task.view, seed)
    found = features.extract(features.backbone(method.backbone), method.stages, image)
  data = {"image": image, "features": found}
  data["label"] = np.tile(task.label, views.copies(task.view)).astype(np.int32)
  if method.supervised:  # zeros where no masks are told: the same compiled function
    region = pixels.region if task.masks else np.zeros(image.shape[:3])
    data["region"] = region.astype(np.int32)
  return jax.tree.map(lambda x: parallel.pad(x, most), data)


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
