"""Says of a sweep what is done, what is missing and what failed and why, and how to go on.

  python launch/status.py --config=configs/table_unsupervised.py:dataset=mvtec_ad \\
    --config.data_dir=<folder>
  python launch/status.py --config=... --retry

With `--retry` it does the failed runs again, one after the other. The commands that do all runs
that are left do those as well.
"""

import shlex
import sys
from collections import Counter

from absl import flags
from ml_collections import config_flags

from imiad_jax import cli
from imiad_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_RETRY = flags.DEFINE_bool("retry", False, "Do the failed runs again.")


def main(argv: list[str]) -> None:
  """Prints the state of a config's runs, and does the failed ones again if so told."""
  del argv
  config = _CONFIG.value
  if config is None:
    raise UserError("No config was given: python launch/status.py --config=configs/...")
  from imiad_jax import jobs, plans, records

  plan = plans.make(config)
  root = str(config.results)
  files = {records.path(root, job.run) for job in plan.jobs}
  errors = {r["id"]: r["error"] for file in files for r in records.read(file) if "error" in r}
  failed = [job for job in plan.todo if job.id in errors]
  if _RETRY.value:
    jobs.do(config, plan._replace(todo=failed))
    return
  print(plans.outline(plan, root))
  for why, n in Counter(errors[job.id] for job in failed).most_common():
    names = [plans.named([job]) for job in failed if errors[job.id] == why]
    more = f" and {n - 3} more" if n > 3 else ""
    print(f"\n{n} failed: {why}\n  " + "\n  ".join(names[:3]) + more)
  done = len(plan.jobs) - len(plan.todo)
  missing = len(plan.todo) - len(failed)
  print(f"\n{done} of {len(plan.jobs)} runs done, {missing} missing, {len(failed)} failed")
  given = shlex.join(sys.argv[1:])
  if plan.todo:
    print(f"\nTo go on:         python -m imiad_jax.main {given}")
    print(f"several at once:  python launch/local.py {given}")
  if failed:
    print(f"the failed alone: python launch/status.py {given} --retry")


if __name__ == "__main__":
  cli.run(main)
