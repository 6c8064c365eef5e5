"""Tables of the report as Markdown and as LaTeX."""

from imiad_jax import tables
from imiad_jax.reporting.grid import Cell, Row, Table

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  "±": r"$\pm$",
  "<": r"\textless{}",
  ">": r"\textgreater{}",
}
_PLAIN = str.maketrans({"|": "\\|", "*": "\\*", "_": "\\_", "<": "&lt;", "\n": " "})
_LATEX = str.maketrans(_SPECIAL)
_PACKAGES = r"% \usepackage{booktabs,graphicx,xcolor}"
_FITTED = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"


def markdown(of: list[Table]) -> str:
  """Returns tables as Markdown, each under its title: best bold, second italic, doubt "(?)"."""
  parts: list[str] = []
  for table in of:
    head = [text.translate(_PLAIN) for text in table.head]
    lines = [[_label(row).translate(_PLAIN), *map(_in_markdown, row.cells)] for row in table.rows]
    grid = tables.as_markdown([head, *lines])
    parts.append(f"## {table.title.translate(_PLAIN)}\n\n{grid}\n\n{table.caption}\n")
  return "\n".join(parts)


def latex(of: list[Table]) -> str:
  """Returns tables as LaTeX: best bold, second underlined, doubt with a dagger, the paper grey.

  Intervals stand under their numbers, and what is wider than the page is made smaller. The packages
  that it needs are in its first line.
  """
  return "\n".join([_PACKAGES, "", *map(_in_latex, of)])


def _label(row: Row) -> str:
  return {"ours": row.label, "paper": "paper", "difference": "ours - paper"}[row.kind]


def _in_markdown(cell: Cell) -> str:
  text = cell.text.translate(_PLAIN)
  wrapped = {"best": f"**{text}**", "second": f"*{text}*", "doubt": f"{text} (?)"}
  more = f" ({cell.interval})" if cell.interval else ""
  return wrapped.get(cell.mark, text) + more if text else ""


def _in_latex(table: Table) -> str:
  rows: list[str] = []
  for row in table.rows:
    label = _label(row).translate(_LATEX)
    cells = [label if row.kind == "ours" else rf"\quad {label}", *map(_cell, row.cells)]
    if row.kind != "ours":
      cells = [rf"\textcolor{{gray}}{{\itshape {cell}}}" if cell else "" for cell in cells]
    rows.append(" & ".join(cells) + r" \\")
    if any(cell.text and cell.interval for cell in row.cells):
      rows.append(" & ".join(["", *map(_interval, row.cells)]) + r" \\")
  head = " & ".join(text.translate(_LATEX) for text in table.head) + r" \\"
  caption = f"{table.title}. {table.caption}".translate(_LATEX)
  return "\n".join(
    [
      r"\begin{table}",
      r"\centering\small",
      rf"\caption{{{caption}}}",
      _FITTED,
      rf"\begin{{tabular}}{{l{'c' * (len(table.head) - 1)}}}",
      r"\toprule",
      head,
      r"\midrule",
      *rows,
      r"\bottomrule",
      r"\end{tabular}}",
      r"\end{table}",
      "",
    ]
  )


def _cell(cell: Cell) -> str:
  text = cell.text.translate(_LATEX)
  wrapped = {
    "best": rf"\textbf{{{text}}}",
    "second": rf"\underline{{{text}}}",
    "doubt": rf"{text}$^\dagger$",
  }
  return wrapped.get(cell.mark, text) if text else ""


def _interval(cell: Cell) -> str:
  shown = cell.text and cell.interval
  return rf"{{\tiny {cell.interval.replace(' to ', '--')}}}" if shown else ""
