"""The command that turns lines of results into a report.

python -m imiad_jax.report --results=results --out=report
"""

import pathlib

from absl import flags

from imiad_jax import cli, records, tables
from imiad_jax.errors import UserError
from imiad_jax.reporting import comparison, findings, page, writers

_RESULTS = flags.DEFINE_string("results", "results", "The folder of results.")
_OUT = flags.DEFINE_string("out", "report", "The folder to write the report to.")


def main(argv: list[str]) -> None:
  """Writes index.html, and its numbers as report.md, report.csv and report.tex."""
  del argv
  rs = list(records.read_all(_RESULTS.value))
  if not rs:
    raise UserError(f'There are no results in "{_RESULTS.value}". Run imiad_jax.main first.')
  records.check_writable(_OUT.value)
  out = pathlib.Path(_OUT.value)
  compared = comparison.tables(rs)
  written = {
    "index.html": page.render(rs, _RESULTS.value),
    "report.md": "\n".join([_findings(rs), writers.markdown(compared), tables.markdown(rs)]),
    "report.csv": tables.rows_csv(rs),
    "report.tex": writers.latex(compared),
  }
  for name, text in written.items():
    (out / name).write_text(text, encoding="utf-8")
  print(f"Wrote {', '.join(str(out / name) for name in written)} from {len(rs)} runs.")


def _findings(rs: list[records.Record]) -> str:
  """Returns the findings as a list in Markdown."""
  lines = [f"- {f.claim} **{f.verdict}**: {f.evidence}" for f in findings.find(rs)]
  return "\n".join(["## The paper's findings", "", *lines, ""])


if __name__ == "__main__":
  cli.run(main)
