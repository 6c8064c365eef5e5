"""Fully supervised: a few anomalous images are told with label and mask, and not tested."""

import numpy as np

from imiad_jax.errors import UserError
from imiad_jax.settings import common
from imiad_jax.types import Index, Task

VERSION = "1"
CAP = 0.75  # of a category's anomalous test images; the rest is left to be tested

runs = common.each


def tasks(
  index: Index, categories: tuple[str, ...], seed: int, anomalies: int = 10, kinds: int = 0
) -> list[Task]:
  """Returns one task: the train split and some test images of each category, told as anomalous.

  A method that does not use labels learns the normal images only.

  Args:
    index: rows to choose from.
    categories: of this run.
    seed: of the draw.
    anomalies: images drawn (IM-IAD, arXiv 2301.13359: 10), at most 75 % of those that may be;
      fewer are among more.
    kinds: they are of so many kinds of defect, drawn too, and the others stay unseen: the hard
      variant (of DRA, arXiv 2203.14506) for 1; 0 for all kinds.

  Raises:
    UserError: no anomaly, or a negative number of kinds.
  """
  if anomalies < 1:
    raise UserError(f"fully_supervised needs at least one anomaly, not {anomalies}.")
  if kinds < 0:
    raise UserError(f"fully_supervised tells anomalies of {kinds} kinds; take 1 or more, or 0.")
  parts = []
  for category in categories:
    task = common.normal(index, category)
    test = task.tests[category]
    bad = test[index.label[test] == 1]
    if kinds:
      order = sorted(set(index.kind[bad].tolist()), key=lambda k: common.digest(seed, k))
      bad = bad[np.isin(index.kind[bad], order[:kinds])]
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
