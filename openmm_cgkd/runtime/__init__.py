"""Old import paths; `openmm_cgkd.simulation` is the package."""
