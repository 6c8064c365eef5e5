"""How much of the earlier tasks a run of several has lost."""

import numpy as np
from jaxtyping import Float


def forgetting(matrix: Float[np.ndarray, "t t"]) -> tuple[float, float] | None:
  """Returns how much was forgotten on average, over all but the last task and over all tasks.

  Args:
    matrix: [t,t] the metric on task j after learning task i in row i, column j; NaN above the
      diagonal.

  Returns:
    The mean over the first t-1 tasks of the best value before the last task minus the value after
    it (Chaudhry et al. 2018, arXiv 1801.10112, equation 3), and the same sum divided by t, as in
    IM-IAD's tables, where the last task counts as 0. May be negative. None for a single task.

  Raises:
    ValueError: a value on or below the diagonal is not finite.
  """
  if not np.isfinite(matrix[np.tril_indices(len(matrix))]).all():
    raise ValueError(f"forgetting needs finite values on and below the diagonal, but got\n{matrix}")
  if len(matrix) < 2:
    return None
  lost = np.nanmax(matrix[:-1, :-1], axis=0) - matrix[-1, :-1]  # [t-1]
  return float(lost.mean()), float(lost.sum() / len(matrix))
