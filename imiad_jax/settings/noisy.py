"""Noisy: some training images are secretly defective; they are taken out of the test split."""

import numpy as np

from imiad_jax.errors import UserError
from imiad_jax.plugins import check
from imiad_jax.settings import common
from imiad_jax.types import Index, Task

VERSION = "1"
READINGS = ("of_normal", "of_all")
CAP = 0.75  # of a category's anomalous test images; the rest is left to be tested

runs = common.each


def tasks(
  index: Index,
  categories: tuple[str, ...],
  seed: int,
  ratio: float = 0.1,
  reading: str = "of_normal",
  overlap: bool = False,
) -> list[Task]:
  """Returns one task whose train split has anomalous test images added, told normal.

  Args:
    index: rows to choose from.
    categories: of this run.
    seed: of the draw; the images of a lower ratio are among those of a higher one.
    ratio: in (0, 1); the paper's are 0.05, 0.1, 0.15 and 0.2.
    reading: what the ratio is of. "of_normal": anomalous = ratio x normal training images, as the
      benchmark's code has it; "of_all": anomalous = ratio x all training images, as its text has
      it. Either is capped at 75 % of the anomalous test images.
    overlap: keep the added images in the test split too. This is how most of the paper's Table X
      was scored, and is not a fair test.

  Raises:
    UserError: a ratio outside (0, 1), or an unknown reading.
  """
  check("reading of the ratio", reading, READINGS)
  if not 0 < ratio < 1:
    raise UserError(f"noisy takes a ratio between 0 and 1, not {ratio}.")
  share = ratio if reading == "of_normal" else ratio / (1 - ratio)
  parts = []
  for category in categories:
    task = common.normal(index, category)
    test = task.tests[category]
    bad = test[index.label[test] == 1]
    count = min(int(share * len(task.train) + 1e-9), int(CAP * len(bad)))
    added = common.ranked(index, bad, seed)[:count]
    left = test if overlap else np.setdiff1d(test, added)
    train = np.concatenate([task.train, added])
    label = np.zeros(len(train), np.int32)  # the lie
    parts.append(task._replace(train=train, label=label, tests={category: left}))
  return [common.merge(parts)]
