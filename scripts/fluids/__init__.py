"""All-atom models against the literature: ``python -m scripts.fluids --help``."""
