"""How figures look: SVG text that follows the page it stands in, dark or light."""

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import matplotlib.figure

INK = "#010203"
"""What is drawn in it takes the colour of the page's text."""

COLOURS = (
  *("#3b82f6", "#e5484d", "#2e9e5b", "#d9730d", "#9b5de5"),
  *("#0e9aa7", "#d6409f", "#a0714f", "#7f8694", "#8a8f1a"),
)
"""Of series: as far from white as from black."""

MARKERS = "osD^v"
WIDTH = 6.4  # inches

_LOOK: dict[Any, Any] = {
  "font.size": 9,
  "svg.fonttype": "none",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.titlesize": 9,
  "legend.frameon": False,
  "legend.fontsize": 8,
  **dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
  ),
}


class Figure(NamedTuple):
  """A figure as text."""

  title: str
  caption: str
  svg: str  # an <svg> element to be put into HTML: no prolog, ids of its own


def draw(
  title: str,
  caption: str,
  paint: Callable[[matplotlib.figure.Figure], None],
  height: float,
  width: float = WIDTH,
) -> Figure:
  """Returns what `paint` draws on an empty figure of so many inches; titles are not drawn."""
  with matplotlib.rc_context({**_LOOK, "svg.hashsalt": title}):
    figure = matplotlib.figure.Figure((width, height), layout="constrained")
    paint(figure)
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=nothing)
  return Figure(title, caption, _inline(out.getvalue(), title, width))


def style(k: int) -> tuple[str, str]:
  """Returns the colour and the marker of the k-th series; 50 differ."""
  return COLOURS[k % len(COLOURS)], MARKERS[k // len(COLOURS) % len(MARKERS)]


def legend(figure: matplotlib.figure.Figure, axes) -> None:
  """Puts the legend of some axes beside them."""
  figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")


def _inline(svg: str, title: str, width: float) -> str:
  """Returns an SVG file as an element for HTML that shrinks with the page."""
  own = "f" + hashlib.sha256(title.encode()).hexdigest()[:8]
  svg = svg[svg.index("<svg") :].strip()
  svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
  svg = re.sub(r'\bid="', f'id="{own}-', svg)
  svg = re.sub(r'(url\(#|href="#)', rf"\1{own}-", svg)
  svg = svg.replace("xlink:href", "href").replace(INK, "currentColor")
  svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 sans-serif", svg)
  box = re.search(r'viewBox="[^"]*"', svg)
  assert box is not None  # every file of matplotlib has one
  said = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
  head = f'<svg xmlns="http://www.w3.org/2000/svg" {box[0]} role="img" aria-label="{said}"'
  head += f' stroke-linejoin="round" style="width:100%;max-width:{width:g}in;height:auto">'
  return head + svg[svg.index(">") + 1 :]
