"""Fully supervised: a few anomalous images are told with label and mask, and not tested."""

import numpy as np

from imiad_jax.errors import UserError
from imiad_jax.settings import common
from imiad_jax.types import Index, Task

VERSION = "1"
CAP = 0.75  # of a category's anomalous test images; the rest is left to be tested

runs = common.each


def tasks(index: Index, categories: tuple[str, ...], seed: int, anomalies: int = 10) -> list[Task]:
  """Returns one task: the train split and `anomalies` test images of each category, told as such.

  They are drawn over all kinds of defect (IM-IAD, arXiv 2301.13359: 10), at most 75 % of those
  there are; fewer are among more. A method that does not use labels learns the normal images only.
  """
  if anomalies < 1:
    raise UserError(f"fully_supervised needs at least one anomaly, not {anomalies}.")
  parts = []
  for category in categories:
    task = common.normal(index, category)
    test = task.tests[category]
    bad = test[index.label[test] == 1]
    told = common.ranked(index, bad, seed)[: min(anomalies, int(CAP * len(bad)))]
    parts.append(
      task._replace(
        train=np.concatenate([task.train, told]),
        label=np.repeat([0, 1], [len(task.train), len(told)]).astype(np.int32),
        tests={category: np.setdiff1d(test, told)},
        masks=True,
      )
    )
  return [common.merge(parts)]
