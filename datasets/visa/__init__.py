from imiad_jax.datasets.visa.visa_dataset_builder import (  # pyright: ignore[reportMissingImports]
  Builder,
)

__all__ = ["Builder"]
