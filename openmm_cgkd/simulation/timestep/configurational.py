r"""The configurational temperature: what positions alone say of the temperature.

In the canonical ensemble integration by parts gives, for any potential U of free beads,

.. math:: k_B T = \frac{\langle |F|^2 \rangle}{\langle -\nabla \cdot F \rangle}, \quad F = -\nabla U

(Rugh, Phys. Rev. Lett. 1997, 78, 772; Butler, Ayton, Jepps and Evans, J. Chem. Phys. 1998, 109,
6519; Jepps, Ayton and Evans, Phys. Rev. E 2000, 62, 4757). A time step that is too long samples
other positions and so another value, whatever its velocities look like. Bonds and angles are part
of U like anything else; constraints would need another equation.

The divergence is a trace. For random signs v its estimator is

.. math:: -\nabla \cdot F \approx -\frac{v \cdot (F(x + \epsilon v) - F(x - \epsilon v))}{2\epsilon}

(Hutchinson, Commun. Stat. Simul. Comput. 1990, 19, 433): two forces, of any engine and any OpenMM
system. It is right on average, and exact for every v where no two coordinates are coupled.
"""

from __future__ import annotations

import numpy as np
import openmm

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.utils.statistics import BlockedMean, blocked_mean
from openmm_cgkd.utils.units import GAS_CONSTANT

# nm. Liquid ethaline with forces in single precision: 3e-6 to 1e-3 differ by 1e-4 of the divergence
_DISPLACEMENT = 1e-4
FORCES_PER_SAMPLE = 2


class ForceDivergence:
    """Estimates of the divergence of the force.

    Parameters
    ----------
    context : openmm.Context
        Of the system; its positions are changed.
    seed : int
        Of the random signs.
    """

    def __init__(self, context: openmm.Context, seed: int) -> None:
        self._context, self._generator = context, np.random.default_rng(seed)

    def sample(self, positions: np.ndarray) -> float:
        """One estimate of minus the divergence, kJ/mol/nm^2.

        Parameters
        ----------
        positions : ndarray, shape (n_beads, 3), nm
        """
        signs = self._generator.choice([-1.0, 1.0], np.shape(positions))
        forward, backward = (
            self._forces(positions + step * signs) for step in (_DISPLACEMENT, -_DISPLACEMENT)
        )
        return float(np.sum(signs * (backward - forward))) / (2 * _DISPLACEMENT)

    def _forces(self, positions: np.ndarray) -> np.ndarray:
        self._context.setPositions(positions)
        forces: np.ndarray = self._context.getState(forces=True).getForces(asNumpy=True)._value
        return forces


def configurational_temperature(squares: np.ndarray, divergences: np.ndarray) -> BlockedMean:
    """The ratio of two means, in kelvin.

    Its standard error is that of the mean of R + (square - R divergence) / <divergence>, with R
    the ratio: the ratio to first order.

    Parameters
    ----------
    squares : ndarray, shape (n_samples,)
        Squared force, (kJ/mol/nm)^2, evenly spaced in time.
    divergences : ndarray, shape (n_samples,)
        Minus the divergence of the force of the same samples, kJ/mol/nm^2.

    Raises
    ------
    SimulationError
        If the mean divergence is not above zero by two standard errors.
    """
    squares, divergences = np.asarray(squares, dtype=float), np.asarray(divergences, dtype=float)
    curvature = blocked_mean(divergences)
    if not curvature.mean > 2 * curvature.error:
        raise SimulationError(
            f"The mean divergence of the force is {-curvature.mean:.3g} +- {curvature.words()}"
            " kJ/mol/nm^2 and should be negative: nothing drives the beads back, so that there is"
            " no configurational temperature; use a potential in which the beads meet."
        )
    ratio = squares.mean() / curvature.mean
    return blocked_mean((ratio + (squares - ratio * divergences) / curvature.mean) / GAS_CONSTANT)
