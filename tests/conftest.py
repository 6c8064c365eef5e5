"""What the tests share."""

import pytest


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory) -> str:
  """A prepared_dir in which the synthetic data set is built, once for all tests."""
  from imiad_jax.datasets import common

  path = str(tmp_path_factory.mktemp("prepared"))
  common.prepare("synthetic", None, path)
  return path
