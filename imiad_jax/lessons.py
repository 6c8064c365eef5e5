"""What was learnt last, so that runs that would learn the very same learn it once.

A method that does not use labels learns from fully_supervised what it learns from unsupervised: the
two differ by what is tested.
"""

import json
from typing import NamedTuple

from imiad_jax.types import Logs, Method, Run, State, Task


class Lesson(NamedTuple):
  """What runs that differ by their seeds learnt together."""

  state: State  # after the last task
  seconds: dict[str, float]  # of all of them
  logs: list[tuple[int, int, Logs]]  # task, epochs of it passed by then, and what they logged


class Memory:
  """The last lesson and what it depends on."""

  def __init__(self) -> None:
    """Knows nothing yet."""
    self._key: object = None
    self._last: Lesson | None = None

  def recall(self, key: object) -> Lesson | None:
    """Returns the last lesson if it has this key; else forgets it. None is the key of none."""
    if key is None or key != self._key:
      self._key, self._last = key, None
    return self._last

  def keep(self, lesson: Lesson) -> None:
    """Keeps the lesson of the key that was asked for last."""
    self._last = lesson


def key(whats: list[Run], method: Method, tasks: list[list[Task]]) -> object:
  """Returns what learning depends on, of runs of one data set with the tasks of each.

  None where several tasks of a run are tested: the State after the last one is not enough.
  """
  if sum(bool(task.tests) for task in tasks[0]) > 1:
    return None
  first = whats[0]
  told = [
    (t.train.tolist(), t.label.tolist(), t.view, t.masks and method.supervised)
    for run in tasks
    for t in run
  ]
  seeds = [what.seed for what in whats]
  return (first.dataset, first.method, json.dumps(first.method_kw, sort_keys=True), seeds, told)
