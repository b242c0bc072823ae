"""`python -m openmm_cgkd` is `cgkd`."""

from openmm_cgkd.cli import main

if __name__ == "__main__":
    main()
