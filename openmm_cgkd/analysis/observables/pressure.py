r"""Pressure from the change of the energy with the volume.

.. math:: P = \frac{N k_B T}{V} - \left\langle \frac{\partial U}{\partial V} \right\rangle

where positions and box are scaled together. For pair forces the second term is the virial
:math:`\sum_{i<j} \mathbf{r}_{ij} \cdot \mathbf{F}_{ij} / 3V` (Allen and Tildesley, Computer
Simulation of Liquids, 2017, section 2.4); the derivative needs no pair forces, so it serves
many-body potentials as well. Total forces on beads, which is all that a file of mapped frames
holds, do not determine the pressure of a periodic box.

The pressure of a bottom-up potential is not that of the liquid: the free energy that it stands for
has a part that depends on the volume alone and is not in the forces (Das and Andersen, J. Chem.
Phys. 2010, 132, 164106). Coarse-grained runs are at fixed volume.
"""

from __future__ import annotations

import numpy as np
import openmm
from openmm import unit

from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.platforms import choose_platform
from openmm_cgkd.simulation.explosion import openmm_message
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.units import ENERGY_DENSITY_UNIT, GAS_CONSTANT

# relative change of lengths: energies in single precision leave about 0.2 bar of noise
_STRAIN = 5e-4


def virial_pressure(
    system: openmm.System,
    positions: np.ndarray,
    boxes: np.ndarray,
    temperature: float,
    platform: str | None = None,
) -> np.ndarray:
    """Pressure of every frame; average it over frames.

    Parameters
    ----------
    system : openmm.System
        Periodic and without constraints, for example from ``CGPotential.createSystem``.
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm
        In OpenMM's reduced form, and so large that the cutoff still fits when they shrink by 0.05
        %.
    temperature : float, kelvin
        Sets the ideal part.
    platform : str, optional
        OpenMM platform; the fastest one if absent.

    Returns
    -------
    ndarray, shape (n_frames,), bar

    Raises
    ------
    AnalysisError
        If the system is not periodic, has constraints, or cannot be evaluated.
    """
    if not system.usesPeriodicBoundaryConditions() or system.getNumConstraints():
        raise AnalysisError(
            "The pressure needs a periodic system without constraints; give box vectors to"
            " createSystem."
        )
    try:
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), choose_platform(system, platform)
        )
        slopes = np.array(
            [_energy_per_volume(context, x, box) for x, box in zip(positions, boxes, strict=True)]
        )
    except openmm.OpenMMException as error:
        raise AnalysisError(
            f"The energy in slightly scaled boxes cannot be computed ({openmm_message(error)}); use"
            " a known platform and a box above twice the cutoff."
        ) from error
    volumes = np.abs(box_volume(boxes))
    return ENERGY_DENSITY_UNIT * (
        system.getNumParticles() * GAS_CONSTANT * temperature / volumes - slopes
    )


def _energy_per_volume(context: openmm.Context, positions: np.ndarray, box: np.ndarray) -> float:
    """dU/dV, kJ/mol/nm^3, by a central difference in the volume."""
    energies, volumes = [], []
    for scale in (1 + _STRAIN, 1 - _STRAIN):
        context.setPeriodicBoxVectors(
            *(openmm.Vec3(*map(float, row)) for row in scale * np.asarray(box))
        )
        context.setPositions(scale * np.asarray(positions, dtype=float))
        energies.append(
            context.getState(energy=True)
            .getPotentialEnergy()
            .value_in_unit(unit.kilojoule_per_mole)
        )
        volumes.append(box_volume(scale * np.asarray(box)))
    return (energies[0] - energies[1]) / (volumes[0] - volumes[1])
