"""The figures of the report; each is None where the lines do not have the data for it."""

from imiad_jax.records import Record
from imiad_jax.reporting.drawing import Figure


def all(records: list[Record]) -> list[Figure]:
  """Returns the figures there are data for."""
  del records
  return []
