"""The command that turns lines of results into tables.

python -m imiad_jax.report --results=results --out=report
"""

import pathlib

from absl import flags

from imiad_jax import cli, records, tables
from imiad_jax.errors import UserError

_RESULTS = flags.DEFINE_string("results", "results", "The folder of results.")
_OUT = flags.DEFINE_string("out", "report", "The folder to write report.md and report.csv to.")


def main(argv: list[str]) -> None:
  """Writes report.md and report.csv."""
  del argv
  rs = list(records.read_all(_RESULTS.value))
  if not rs:
    raise UserError(f'There are no results in "{_RESULTS.value}". Run imiad_jax.main first.')
  records.check_writable(_OUT.value)
  out = pathlib.Path(_OUT.value)
  (out / "report.md").write_text(tables.markdown(rs), encoding="utf-8")
  (out / "report.csv").write_text(tables.rows_csv(rs), encoding="utf-8")
  print(f"Wrote {out / 'report.md'} and {out / 'report.csv'} from {len(rs)} runs.")


if __name__ == "__main__":
  cli.run(main)
