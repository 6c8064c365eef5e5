"""How figures look: SVG text that follows the page it stands in, dark or light."""

from typing import NamedTuple


class Figure(NamedTuple):
  """A figure as text."""

  title: str
  caption: str
  svg: str  # an <svg> element to be put into HTML: no prolog, ids of its own
