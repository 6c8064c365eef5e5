"""PatchCore and PaDiM in all five settings: five tables from one command.

  python -m imiad_jax.main --config=configs/table_settings_synthetic.py
  python -m imiad_jax.main --config=configs/table_settings_synthetic.py:dataset=mtd \\
    --config.data_dir=<folder>

On the drawn data set at 128 px: 170 runs, two minutes on two cores. On the magnetic tiles: 28 runs,
two and a half minutes; they are one category, so there is no continual setting. Features of a
category are computed once for all of it. PatchCore keeps a tenth of the patches, of the tiles a
hundredth: they are ten times as many.
"""

from imiad_jax import config

FEW = [("few_shot", {"shots": m, "view": v}) for v in ("none", "rotation") for m in (1, 2, 4, 8)]
NOISY = [("noisy", {"ratio": r}) for r in (0.05, 0.1, 0.15, 0.2)]


def get_config(arg: str | None = None):
  """Returns the config for "dataset=,backbone=,size="."""
  given = config.parse(arg, dataset="synthetic", backbone="efficientnet_lite0", size="128")
  tiles = given["dataset"] == "mtd"
  settings = [("unsupervised", {}), ("fully_supervised", {}), *FEW, *NOISY]
  parts = []
  for setting, kw in settings if tiles else [*settings, ("continual", {})]:
    common = {"setting": setting, "backbone": given["backbone"], "setting_kw": kw}
    ratio = 0.01 if tiles and setting != "few_shot" else 0.1
    parts.append(config.part("patchcore", size=int(given["size"]), ratio=ratio, **common))
    parts.append(config.part("padim", size=int(given["size"]), **common))
  return config.make(given["dataset"], *parts)
