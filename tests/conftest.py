"""What the tests share."""

import hypothesis
import pytest

# The same cases every time, so that a red test is red for everyone.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory) -> str:
  """A prepared_dir in which the synthetic data set is built, once for all tests."""
  from imiad_jax.datasets import common

  path = str(tmp_path_factory.mktemp("prepared"))
  common.prepare("synthetic", None, path)
  return path
