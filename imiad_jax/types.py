"""The words everything else is written in.

Notation for all shapes of the package: b images in a batch, n images in all, h and w pixels,
h' and w' cells of a feature grid, c channels, d dimensions of an embedding, t tasks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

State = Any  # a pytree of arrays; each method has its own
Logs = dict[str, jax.Array]  # scalars


class Batch(NamedTuple):
  """Some rows of a task, padded to a fixed size: rows with valid=False may change nothing."""

  image: jax.Array  # [b,h,w,3] float32 in [0,1]; the backbone normalises
  label: jax.Array  # [b] int32: what the learner is told; -1 when scoring
  region: jax.Array  # [b,h,w] int32: k in the k-th defect; 0 where no masks are told, and in score
  row: jax.Array  # [b] int32: place among the training rows; Spec.max_train or more for padding
  epoch: jax.Array  # [] int32: passes over the task made before this one
  valid: jax.Array  # [b] bool
  features: dict[str, jax.Array]  # stage -> [b,h',w',c], of Method.stages, from the frozen backbone


class Scores(NamedTuple):
  """Higher is more anomalous; raw, neither clipped nor normalised."""

  image: jax.Array  # [b] float32
  pixel: jax.Array | None  # [b,h,w] float32 at input size; None: the method does not localise


class Spec(NamedTuple):
  """What a method may size its State with. Static and hashable."""

  image: tuple[int, int, int]  # (h, w, 3)
  features: tuple[tuple[str, tuple[int, ...]], ...]  # ((stage, (h', w', c)), ...)
  max_train: int  # rows of the largest task, rounded up
  num_tasks: int

  def shape(self, stage: str) -> tuple[int, ...]:
    """Returns (h', w', c) of one stage."""
    return dict(self.features)[stage]


class Method(NamedTuple):
  """A method: four pure functions over one State, and what it asks of the engine."""

  init: Callable[[jax.Array, Spec, Any], State]  # key, sizes, the backbone's pretrained params
  update: Callable[[State, Batch], tuple[State, Logs]]  # learns from one batch
  finish: Callable[[State], State]  # a task's end: whatever needs all of its batches
  score: Callable[[State, Batch], Scores]
  backbone: str  # a name in backbones/
  stages: tuple[str, ...]  # frozen features wanted in Batch.features; () for none
  size: int  # height and width the images are resized to
  batch: int
  epochs: int
  supervised: bool = False  # else it learns only the rows told normal
  needs_anomalies: bool = False  # refused where none are told
  needs_others: bool = False  # learns the data set's other categories first, as one task


class Task(NamedTuple):
  """Row numbers of an Index, nothing else: what is learnt, what is told of it, what is tested."""

  name: str
  train: np.ndarray  # [n] int
  label: np.ndarray  # [n] int: the label told for each training row; see settings.common.others
  tests: dict[str, np.ndarray]  # category -> [m] int: rows tested from this task on
  masks: bool = False  # whether the regions of the training rows are told too
  view: str = "none"  # a key of views.KINDS: views of the training images that are learnt too


class Run(NamedTuple):
  """One line of results to be. A value: its identity is the hash of what it says."""

  dataset: str
  categories: tuple[str, ...]  # in the order they are met
  setting: str
  setting_kw: dict[str, Any]
  method: str
  method_kw: dict[str, Any]  # resolved: every hyperparameter of the factory
  seed: int


class Index(NamedTuple):
  """The rows of a data set without their pixels, one column a field: train before test."""

  name: np.ndarray  # [n] str: path below the data set's root, unique
  category: np.ndarray  # [n] str
  split: np.ndarray  # [n] str: "train" or "test"; some data sets have "validation" too
  kind: np.ndarray  # [n] str: "good" or the kind of defect
  label: np.ndarray  # [n] int: 0 normal, 1 anomalous

  def rows(self, category: str, split: str) -> np.ndarray:
    """Returns the row numbers [m] of one category and split, in index order."""
    return np.flatnonzero((self.category == category) & (self.split == split))
