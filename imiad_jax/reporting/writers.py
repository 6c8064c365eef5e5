"""Tables of the report as Markdown and as LaTeX."""

from imiad_jax.reporting.comparison import Table


def markdown(tables: list[Table]) -> str:
  """Returns tables as Markdown, each under its title."""
  del tables
  return ""


def latex(tables: list[Table]) -> str:
  """Returns tables as LaTeX, for a document that uses booktabs."""
  del tables
  return ""
