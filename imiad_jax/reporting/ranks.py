"""Is any method significantly better: ranks over data sets and categories."""

from imiad_jax.records import Record
from imiad_jax.reporting.drawing import Figure


def diagram(records: list[Record]) -> Figure | None:
  """Returns the critical-difference diagram, None where there are too few data."""
  del records
  return None


def verdict(records: list[Record]) -> str:
  """Returns in a sentence whether any method is significantly better, or why that is not known."""
  del records
  return ""
