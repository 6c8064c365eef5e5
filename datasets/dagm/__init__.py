from imiad_jax.datasets.dagm.dagm_dataset_builder import (  # pyright: ignore[reportMissingImports]
  Builder,
)

__all__ = ["Builder"]
