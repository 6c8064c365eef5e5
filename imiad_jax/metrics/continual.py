"""How much of the earlier tasks a run of several has lost."""

import numpy as np
from jaxtyping import Float


def forgetting(matrix: Float[np.ndarray, "t c"]) -> tuple[float, float] | None:
  """Returns how much was forgotten on average, over the earlier categories and over all.

  Args:
    matrix: [t,c] the metric on category j after learning task i in row i, column j; NaN where the
      category's task was not learnt yet. With a task for each category, NaN above the diagonal.

  Returns:
    The mean, over the categories of all tasks but the last, of the best value before the last task
    minus the value after it (Chaudhry et al. 2018, arXiv 1801.10112, equation 3); and the same sum
    divided by the number of all categories, as in IM-IAD's tables, where the last task counts as
    0. May be negative. None where there is no earlier category.

  Raises:
    ValueError: a category is not tested after the last task, or was and then is not.
  """
  known = np.isfinite(matrix)
  if not (known[-1].all() and (known[1:] >= known[:-1]).all()):
    raise ValueError(
      f"forgetting needs a finite value from a category's task on, but got\n{matrix}"
    )
  earlier = np.asarray(known[:-1].any(axis=0))
  if not earlier.any():
    return None
  lost = np.nanmax(matrix[:-1, earlier], axis=0) - matrix[-1, earlier]
  return float(lost.mean()), float(lost.sum() / len(earlier))
