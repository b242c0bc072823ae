"""Stage 6: potentials inside OpenMM."""
