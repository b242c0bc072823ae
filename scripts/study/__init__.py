"""The study of arXiv:2510.26650 with error bars: ``python -m scripts.study --help``."""
