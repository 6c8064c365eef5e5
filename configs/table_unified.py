"""Table XIII of the paper, the unified view: every method in every setting that it accepts.

  python -m imiad_jax.main --config=configs/table_unified.py:quick
  python -m imiad_jax.main --config=configs/table_unified.py:quick,methods=padim+patchcore
  python -m imiad_jax.main --config=configs/table_unified.py
  python -m imiad_jax.main --config=configs/table_unified.py:dataset=mvtec_ad \\
    --config.data_dir=<folder>

The settings are the paper's four (noisy at a ratio of 0.15, few shots of eight images, here also of
two and with turned views) and the fully supervised one with ten anomalies told. What a method
refuses is said in a sentence and left out. `python -m imiad_jax.report` makes all of its figures
from these lines. Quick is two categories of the drawn data set and one seed, and two shots and
turned views for the methods of Table IX alone; without it all six categories and three seeds.
Quick's 268 runs and their report took 1 h 58 min on two cores (benchmarks/README.md). The drawn
data set is learnt with the embedded backbone and hyperparameters that a CPU can pay for, but for
the authors' ratio of banks of few images; any other with those of each method's authors, for which
take an accelerator; `backbone=efficientnet_lite0` overrides that.
"""

from imiad_jax import config, plugins

METHODS = plugins.names("methods")
FEW_SHOT = ("cfa", "fastflow", "fastrecon", "padim", "patchcore", "rd4ad", "regad", "spade")
BANKS = ("patchcore", "sharedbank", "softpatch")  # of a tenth of the patches where images are few
SETTINGS = (  # those first that share what they learn (see lessons)
  *(("unsupervised", {}), ("continual", {}), ("fully_supervised", {"anomalies": 10})),
  *(("few_shot", {"shots": 8}), ("noisy", {"ratio": 0.15})),
)
MORE = (("few_shot", {"shots": 2}), ("few_shot", {"shots": 8, "view": "rotation"}))


def variants(method: str, backbone: str, quick: bool):
  """Returns a method in each setting."""
  settings = SETTINGS if quick and method not in FEW_SHOT else SETTINGS + MORE
  few = {"ratio": 0.1} if method in BANKS else {}
  return [
    config.part(method, setting, backbone, kw, **(few if setting == "few_shot" else {}))
    for setting, kw in settings
  ]


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone=,methods=,seeds="."""
  out = config.table(arg, METHODS, variants)
  out.efficiency = True
  return out
