"""Which runs of a config are handed to which worker, and what becomes of those that are lost.

A worker is a process or an actor that does groups of runs and returns their lines; launch/ has
programs that start them. Only the program that hands out writes lines, so that a worker may be
killed at any moment.
"""

import logging
import time
from collections.abc import Hashable
from typing import Any

import numpy as np

from imiad_jax import plans, records
from imiad_jax.plans import Config, Job, Plan

_LOG = logging.getLogger(__name__)


class Sweep:
  """The runs of a plan that are left: each is handed out until its line is there."""

  def __init__(self, config: Config, plan: Plan, tries: int = 3):
    """Takes the runs of `plan.todo`; one that loses its worker `tries` times has failed.

    Raises:
      UserError: the folder of results cannot be written.
    """
    records.check_writable(config.results)
    self._root, self._tries = str(config.results), tries
    self._waiting = plans.grouped(plan.todo, config.replicas)
    self._given: dict[Hashable, list[Job]] = {}  # worker -> what it is at
    self._at: dict[Hashable, Any] = {}  # worker -> what its last runs share
    self._deaths: dict[str, int] = {}  # run -> how many workers it lost
    self._total, self._failed = len(plan.todo), 0
    self._spent: list[float] = []  # seconds a run
    self._began: dict[Hashable, float] = {}

  @property
  def over(self) -> bool:
    """Whether nothing waits and nothing is under way."""
    return not self._waiting and not self._given

  def take(self, worker: Hashable) -> list[Job] | None:
    """Returns the next runs of a worker: such as share features with its last ones, if any.

    Else those whose features no other worker has, of which there are most. None where all are
    handed out; those of a worker that is lost may come back.
    """
    while self._waiting:
      keys = [plans.shared(group[0].run) for group in self._waiting]
      others = {key for who, key in self._at.items() if who != worker}
      mine = self._at.get(worker)
      wanted = mine if mine in keys else max(keys, key=lambda k: (k not in others, keys.count(k)))
      group = self._waiting.pop(keys.index(wanted))
      left = [job for job in group if not self._done(job)]  # another sweep may have done some
      self._total -= len(group) - len(left)
      if left:
        self._given[worker], self._at[worker] = left, wanted
        self._began[worker] = time.perf_counter()
        return left
    return None

  def took(self, worker: Hashable, lines: list[records.Record]) -> None:
    """Writes the lines of what a worker was given."""
    group = self._given.pop(worker)
    for job, line in zip(group, lines, strict=True):
      records.append(records.path(self._root, job.run), line)
      if "error" in line:
        self._failed += 1
        _LOG.error("failed: %s: %s", plans.named([job]), line["error"])
    self._spent += [(time.perf_counter() - self._began[worker]) / len(group)] * len(group)
    self._say()

  def lost(self, worker: Hashable, why: str) -> None:
    """Puts back what a worker was given that is no more, or gives it up after so many tries.

    Runs that are done at once are then tried one by one: together they may need too much memory.
    """
    self._at.pop(worker, None)
    group = self._given.pop(worker, [])
    for job in group:
      self._deaths[job.id] = self._deaths.get(job.id, 0) + 1
    spent = bool(group) and self._deaths[group[0].id] >= self._tries
    if spent and len(group) > 1:
      self._waiting[:0] = [[job] for job in group]
      self._deaths |= {job.id: 0 for job in group}
    elif group and not spent:
      self._waiting.insert(0, group)
    elif group:
      (job,) = group
      error = f"its worker was lost {self._tries} times, the last time because {why}"
      line = {"id": job.id, "run": job.run._asdict(), "versions": job.versions, "error": error}
      records.append(records.path(self._root, job.run), line)
      self._failed += 1
    at = f" at {plans.named(group)}" if group else ""
    _LOG.warning("worker %s was lost%s: %s", worker, at, why)

  def _done(self, job: Job) -> bool:
    return records.done(records.path(self._root, job.run), job.id)

  def _say(self) -> None:
    """Logs how far it is, with the time left at the pace of the runs so far."""
    left = sum(map(len, self._waiting)) + sum(map(len, self._given.values()))
    seconds = float(np.mean(self._spent)) * left / max(len(self._at), 1)
    _LOG.info(
      "%d of %d runs done, %d failed, about %s left",
      *(self._total - left, self._total, self._failed, plans.spoken(seconds)),
    )
