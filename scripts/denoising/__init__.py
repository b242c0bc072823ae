"""Does distillation denoise? ``python -m scripts.denoising --help``; also ``explain_residual``."""
