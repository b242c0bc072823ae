"""Old home of `PotentialFunction`: systems that 0.1 saved as XML name this module."""

from openmm_cgkd.simulation.python_force import PotentialFunction

__all__ = ["PotentialFunction"]
