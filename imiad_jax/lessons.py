"""What the last runs learnt, so that the next one does not learn the very same again.

A method that does not use labels learns from fully_supervised what it learns from unsupervised, of
which only the tests differ, and what continual begins with; one that learns the other categories
first does so alike before each number of shots.
"""

import hashlib
import itertools
import json
from typing import NamedTuple

import jax

from imiad_jax.types import Logs, Method, Run, State, Task


class Lesson(NamedTuple):
  """A task that runs that differ by their seeds have learnt together."""

  state: State  # after it
  seconds: dict[str, float]  # that it took
  logs: list[tuple[int, Logs]]  # epochs passed by then, and what they logged


class Memory:
  """Lessons by what they depend on."""

  def __init__(self) -> None:
    """Knows nothing yet."""
    self._kept: dict[str | None, Lesson] = {}

  def recall(self, keys: list[str | None]) -> list[Lesson]:
    """Returns the lessons of a run's first tasks; forgets the others, so that they take no room."""
    self._kept = {key: lesson for key, lesson in self._kept.items() if key in keys}
    found = (self._kept.get(key) for key in keys)
    return [lesson for lesson in itertools.takewhile(bool, found) if lesson]

  def keep(self, key: str | None, lesson: Lesson) -> None:
    """Keeps a lesson, unless its key is None."""
    if key:
      self._kept[key] = lesson


def keys(
  whats: list[Run], method: Method, tasks: list[list[Task]], most: int, state: State
) -> list[str | None]:
  """Returns for each task what the State after it depends on, of runs of one data set.

  None after the first task that is tested: no other setting comes that far, and a State would lie
  there idly.

  Args:
    whats: runs that differ by their seeds.
    method: theirs.
    tasks: of each run.
    most: rows that tasks are padded to.
    state: shapes of the first State, which are all that it has of the number of tasks.
  """
  told: list[object] = [whats[0].dataset, whats[0].method, whats[0].method_kw]
  told += [[what.seed for what in whats], most, list(map(str, jax.tree.leaves(state)))]
  out: list[str | None] = []
  tested = False
  for same in zip(*tasks, strict=True):  # the same task of each run
    told += [
      (t.train.tolist(), t.label.tolist(), t.view, t.masks and method.supervised) for t in same
    ]
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    out.append(None if tested else key)
    tested = tested or bool(same[0].tests)
  return out
