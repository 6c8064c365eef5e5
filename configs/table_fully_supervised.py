"""Table VIII of the paper: ten anomalous images are told, with their masks.

  python -m imiad_jax.main --config=configs/table_fully_supervised.py:quick
  python -m imiad_jax.main --config=configs/table_fully_supervised.py
  python -m imiad_jax.main --config=configs/table_fully_supervised.py:dataset=mvtec_ad \\
    --config.data_dir=<folder>

PatchCore, which learns the normal images alone, stands beside the methods that use labels (DevNet,
DRA) and masks (BGAD, PRN, SemiREST). Each is run with anomalies of all kinds, and with those of one
kind (`kinds` 1, the hard variant): "seen" and "unseen" are the image AUROC of the kinds of defect
that were and were not told. Quick is two categories of the drawn data set and one seed, without it
all six and three seeds. The drawn data set is learnt with the embedded backbone and hyperparameters
that a CPU can pay for, any other with those of each method's authors, for which take an
accelerator; `backbone=efficientnet_lite0` overrides that.

It costs: quick 16 to 24 minutes on two cores as one command, the whole of the drawn data set six
hours by the sum of runs which went on beside others, most of them PRN's and SemiREST's. Expect
BGAD, PRN and SemiREST above PatchCore in pixel AP on the structural categories, PRN and SemiREST
far above it on the logical ones together, and DevNet and DRA under it, far under it on the logical
categories.
"""

from imiad_jax import config

METHODS = ("bgad", "devnet", "dra", "patchcore", "prn", "semirest")


def variants(method: str, backbone: str, quick: bool):
  """Returns a method with anomalies of all kinds told and of one."""
  del quick
  return [config.part(method, "fully_supervised", backbone, {"kinds": kinds}) for kinds in (0, 1)]


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone=,methods=,seeds="."""
  return config.table(arg, METHODS, variants)
