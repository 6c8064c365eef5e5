"""Few-shot: learn a few normal images of each category, and perhaps views of them."""

from imiad_jax import views
from imiad_jax.errors import UserError
from imiad_jax.plugins import check
from imiad_jax.settings import common
from imiad_jax.types import Index, Task

VERSION = "1"
runs = common.each


def tasks(
  index: Index, categories: tuple[str, ...], seed: int, shots: int = 4, view: str = "none"
) -> list[Task]:
  """Returns one task: `shots` images drawn from each train split, and the full test splits.

  The images of fewer shots are among those of more. `view` adds four views of each image: a name
  in views.KINDS, or "none" (IM-IAD, arXiv 2301.13359, Table IX; there shots are 1, 2, 4 and 8).
  """
  check("view", view, ("none", *views.KINDS))
  parts = []
  for category in categories:
    task = common.normal(index, category)
    if not 1 <= shots <= len(task.train):
      raise UserError(
        f"few_shot cannot learn {shots} of {len(task.train)} training images of {category}."
      )
    few = common.ranked(index, task.train, seed)[:shots]
    parts.append(task._replace(train=few, label=task.label[:shots], view=view))
  return [common.merge(parts)]
