"""PatchCore and PaDiM in all five settings: five tables from one command.

  python -m imiad_jax.main --config=configs/table_settings_synthetic.py
  python -m imiad_jax.main --config=configs/table_settings_synthetic.py:dataset=mtd \\
    --config.data_dir=<folder>

On the drawn data set at 128 px: 172 runs, @COST@. Features of a category are computed once for all
of them. A data set of one category has no continual setting, and its table is left out.
"""

from imiad_jax import config

METHODS = ("patchcore", "padim")
SETTINGS = [
  ("unsupervised", {}),
  ("fully_supervised", {}),
  *(("few_shot", {"shots": m, "view": v}) for v in ("none", "rotation") for m in (1, 2, 4, 8)),
  *(("noisy", {"ratio": r}) for r in (0.05, 0.1, 0.15, 0.2)),
  ("continual", {}),
]


def get_config(arg: str | None = None):
  """Returns the config for "dataset=,backbone=,size="."""
  given = config.parse(arg, dataset="synthetic", backbone="efficientnet_lite0", size="128")
  size = int(given["size"])
  parts = [
    config.part(method, setting, given["backbone"], kw, size=size)
    for setting, kw in SETTINGS
    if not (setting == "continual" and given["dataset"] == "mtd")
    for method in METHODS
  ]
  return config.make(given["dataset"], *parts)
