"""Programs around the package, started from the root of a checkout: ``python -m scripts.NAME``."""
