"""Whether the start of a run is one that its potential can run from, and why it explodes if not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from openmm import app

from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.frames.scale import nearest_distances, shortest_distance, unit_mistake
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.potential.prior import PairRepulsion, PriorParameters
from openmm_cgkd.utils.box import lattice_coordinates, nearest_images
from openmm_cgkd.utils.units import GAS_CONSTANT

from .cgpotential import CGPotential
from .ensemble import EnsemblePotential
from .explosion import masses_of
from .topology import bead_names, box_in_nm, own_box

_TEMPERATURE_TOLERANCE = 1e-3
_CAREFUL = 0.001  # ps, a time step short enough for every fluid
# changes of speed in units of the thermal one: more in one step, and the step is too long
_KICK = 3.0
_VIOLENT = 1.0  # more in a careful step, and no step is short enough
_TOO_NEAR = 0.95  # of the shortest distance in the all-atom frames
_ON_TOP = 0.5  # where a soft wall hides from the forces how near beads are
_USUAL = 0.8  # of the median distance to the nearest bead, where these are not known
_COMPACT = 1.5  # box edges that positions span which were not unwrapped for long
_COMMON = 0.05  # share of beads that are too near to others, if more than a few have gone wrong
_PAIRS = 2_000_000  # looked at
# repulsion beyond that at contact, in kT: of two beads; of all, and for each bead besides. A fluid
# has far less: all 240 beads of ethaline 1 kT, but 20 kT in another order with a soft wall
_PAIR, _ALL, _EACH = 20.0, 10.0, 0.04


@dataclass(frozen=True)
class Known:
    """What a potential knows of the states it was made for.

    Attributes
    ----------
    temperatures : dict
        By file: its temperature, kelvin, where it is known.
    contacts : dict
        By two type names: the shortest distance in the all-atom frames, nm.
    repulsions : list of PairRepulsion
        Of every file.
    type_names : list of str
        Types of the beads, as the repulsions count them.
    """

    temperatures: dict[str, float]
    contacts: dict[tuple[str, str], float]
    repulsions: list[PairRepulsion]
    type_names: list[str]

    @classmethod
    def of(cls, potential: CGPotential | EnsemblePotential) -> Known:
        """What the potential file says, or all files of an ensemble together."""
        members = [potential] if isinstance(potential, CGPotential) else potential.members
        temperatures: dict[str, float] = {}
        contacts: dict[tuple[str, str], float] = {}
        repulsions = []
        for member in members:
            if member.metadata.temperature is not None:
                temperatures[str(member.file)] = member.metadata.temperature
            prior = PriorParameters(**member.metadata.prior)
            found = {
                (a, b): prior.contact[i][j]
                for i, a in enumerate(prior.type_names)
                for j, b in enumerate(prior.type_names)
            }
            repulsions.append(prior.build(member.cutoff).double())
            for bond in prior.bonded.bonds if prior.bonded else ():
                a, b = bond["types"]
                found[a, b] = found[b, a] = min(found[a, b], bond["length"])
            for pair, distance in found.items():
                contacts[pair] = min(distance, contacts.get(pair, math.inf))
        return cls(temperatures, contacts, repulsions, members[0].metadata.type_names)

    def check_temperature(self, temperature: float, of: str, on_purpose: bool) -> None:
        """Compare the temperature of a run with that of the potential.

        Parameters
        ----------
        temperature : float, kelvin
        of : str
            What has that temperature, for the message.
        on_purpose : bool
            The user wants another one.

        Raises
        ------
        ConfigError
        """
        for file, own in self.temperatures.items():
            if not on_purpose and abs(temperature - own) > _TEMPERATURE_TOLERANCE * own:
                raise ConfigError(
                    f"{file}: holds at {own:g} K, the temperature of the all-atom frames it was"
                    f" made from, and {of} {temperature:g} K; use a potential of that temperature,"
                    " or set simulation.other_temperature: true to run it there on"
                    " purpose (cgkd timestep: --other-temperature)."
                )

    def check_units(self, names: list[str], positions: np.ndarray, box: np.ndarray | None) -> None:
        """Refuse positions or a box that are not in nm.

        Raises
        ------
        SimulationError
        """
        kinds = set(names)
        here = [r for (a, b), r in self.contacts.items() if {a, b} <= kinds and 0 < r < math.inf]
        if here and (found := unit_mistake(positions, box, min(here))):
            raise SimulationError(f"The start of the simulation: {found[0]}; {found[1]}.")


def check_start(topology: app.Topology, positions: np.ndarray, known: Known | None) -> None:
    """Refuse positions that are not finite or, if the potential is known, not in nm.

    Raises
    ------
    SimulationError
    """
    names = bead_names(topology)
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        k = int(np.argmin(finite))
        raise SimulationError(
            f"The start of the simulation: the position of bead {k} ({names[k]}) is not finite;"
            " give every bead a position in nm."
        )
    if known:
        known.check_units(names, positions, box_in_nm(own_box(topology)))


class FirstState:
    """The state that a run starts from: whether beads overlap, and why the run explodes soon.

    Parameters
    ----------
    simulation : openmm.app.Simulation
        With positions.
    names : list of str
        Types of the beads.
    known : Known or None
    """

    def __init__(self, simulation: app.Simulation, names: list[str], known: Known | None) -> None:
        state = simulation.context.getState(positions=True, forces=True)
        system = simulation.system
        self._names, self._known = names, known
        self._kinds = list(dict.fromkeys(names))
        self._types = np.array([self._kinds.index(name) for name in names])
        self._positions = state.getPositions(asNumpy=True)._value
        self._forces = np.linalg.norm(state.getForces(asNumpy=True)._value, axis=1)
        self._box = (
            state.getPeriodicBoxVectors(asNumpy=True)._value
            if system.usesPeriodicBoundaryConditions()
            else None
        )
        self._masses = masses_of(system)

    def refuse_overlaps(self, molecules: list[int], temperature: float) -> None:
        """Refuse a start with more repulsion between its beads than a fluid ever has.

        What counts is how much more two beads repel each other than at the contact of their types,
        since a soft repulsion reaches far beyond it. One pair must not have too much, nor all. Of
        an ensemble, the potential counts that has least for a pair.

        The wall is so soft that it would part them, and the run would go on in a wrong box or from
        a wrong order of beads.

        Parameters
        ----------
        molecules : list of int
            Molecule of every bead: within one, beads may be near.
        temperature : float, kelvin

        Raises
        ------
        SimulationError
        """
        if self._known is None:
            return
        thermal = GAS_CONSTANT * temperature
        reach = max(min(float(each.contact.max()), each.cutoff) for each in self._known.repulsions)
        if not reach > 0:
            return
        pairs = find_pairs(self._positions, self._box, reach)
        of = np.array(molecules)
        pairs = pairs[of[pairs.first] != of[pairs.second]]
        vectors = self._positions[pairs.second] - self._positions[pairs.first] + pairs.shifts
        types = torch.tensor([self._known.type_names.index(name) for name in self._names])
        ends = torch.from_numpy(np.stack([pairs.first, pairs.second], axis=1))
        by_potential = [
            _beyond_contact(repulsion, types[ends], torch.from_numpy(vectors)).numpy() / thermal
            for repulsion in self._known.repulsions
        ]
        least = np.minimum.reduce(by_potential)
        total, worst = float(least.sum()), float(least.max(initial=0.0))
        if worst > _PAIR:
            one, other = (self._bead(int(k)) for k in ends[int(least.argmax())])
            found = f"{one} and {other} repel each other with {worst:.3g} kT"
        elif total > _ALL + _EACH * len(self._names):
            found = f"the beads repel each other with {total:.3g} kT"
        else:
            return
        reason = self._crowded() or (
            "beads overlap; give positions without overlaps, or minimize their energy first"
        )
        raise SimulationError(f"The start of the simulation: {reason} ({found}).")

    def explain(self, timestep: float, temperature: float) -> str | None:
        """Likely cause and cure of an explosion; None if the start looks sound.

        Parameters
        ----------
        timestep : float, ps
        temperature : float, kelvin
        """
        thermal = np.sqrt(self._masses * GAS_CONSTANT * temperature)
        kicks = np.where(self._masses > 0, self._forces / np.maximum(thermal, 1e-9), 0.0)
        kicks = np.where(np.isfinite(kicks), kicks, np.inf)
        worst = int(np.argmax(kicks))
        if kicks[worst] * _CAREFUL > _VIOLENT:
            reason = self._crowded() or (
                f"{self._bead(worst)} is where the potential pushes it away; give positions in nm"
                " and in the order of the topology, or minimize their energy first"
            )
            return f"most likely {reason}"
        kick = kicks[worst] * timestep
        if not kick > _KICK:
            return None
        if on_top := self._crowded(_ON_TOP):
            return f"most likely {on_top}"
        fitting = float(f"{1e3 * timestep / kick:.1g}")
        return (
            f"most likely the time step of {1e3 * timestep:g} fs is too long: in one step the force"
            f" on {self._bead(worst)} changes its speed by {kick:.3g} times the thermal one; use a"
            f" smaller time step, for this start at most {fitting:g} fs"
        )

    def _crowded(self, near_enough: float = _TOO_NEAR) -> str | None:
        """Cause and cure if beads are nearer than this share of what is usual."""
        if len(self._positions) < 2:
            return None
        contacts = self._known.contacts if self._known else {}
        usual = _USUAL * float(np.median(nearest_distances(self._positions, self._box)))
        table = np.array([[contacts.get((a, b), usual) for b in self._kinds] for a in self._kinds])
        # enough beads to tell what is the rule and what the exception
        rows = np.arange(len(self._positions))[:: 1 + len(self._positions) ** 2 // _PAIRS]
        straight = self._positions[None] - self._positions[rows, None]
        vectors = straight if self._box is None else nearest_images(straight, self._box)
        distances = np.linalg.norm(vectors, axis=-1)
        distances[np.arange(len(rows)), rows] = np.inf
        kept = table[self._types[rows, None], self._types[None]]
        near = np.argwhere(distances < near_enough * kept)
        if len(near) == 0:
            return None
        row, second = near[np.argmin(distances[tuple(near.T)] / kept[tuple(near.T)])]
        first, distance = int(rows[row]), float(distances[row, second])
        contact = contacts.get((self._names[first], self._names[second]))
        never = "" if contact is None else f", in the all-atom frames never below {contact:.3g} nm"
        pair = (
            f"{self._bead(first)} and {self._bead(int(second))} are {distance:.3g} nm apart{never}"
        )
        everywhere = len(set(near[:, 0])) > _COMMON * len(rows)
        moved = np.abs(vectors - straight).max(axis=-1) > 1e-9
        if self._box is not None and everywhere and moved[tuple(near.T)].all():
            if not contacts and (found := self._in_angstrom()):
                return found
            if self._spans() < _COMPACT:
                edges = " x ".join(f"{x:.4g}" for x in np.linalg.norm(self._box, axis=1))
                return (
                    f"the box of {edges} nm is too small for these positions: through its boundary"
                    f" {pair}; give the box that belongs to the positions, both in nm"
                )
        if everywhere and contacts and distances.min() >= _TOO_NEAR * table.min():
            return (
                f"the beads are in another order than those of the topology: {pair}, while other"
                " types come as near; give positions in the order of the topology"
            )
        return (
            f"beads overlap: {pair}; give positions without overlaps, in nm, in the order of the"
            " topology and with the box that belongs to them, or minimize their energy first"
        )

    def _in_angstrom(self) -> str | None:
        """Cause and cure if the positions are in angstrom and the box is not."""
        # without a box, the beads would be ten times as far from each other
        found = unit_mistake(self._positions, self._box, shortest_distance(self._positions) / 10)
        return "; ".join(found) if found and found[0].startswith("positions look") else None

    def _spans(self) -> float:
        """How many box edges the positions span."""
        assert self._box is not None
        return float(np.ptp(lattice_coordinates(self._positions, self._box), axis=0).max())

    def _bead(self, k: int) -> str:
        return f"bead {k} ({self._names[k]})"


def _beyond_contact(
    repulsion: PairRepulsion, types: torch.Tensor, vectors: torch.Tensor
) -> torch.Tensor:
    """Energy of every pair beyond that at its contact, kJ/mol.

    Parameters
    ----------
    repulsion : PairRepulsion
    types : Tensor, shape (n_pairs, 2)
    vectors : Tensor, shape (n_pairs, 3), nm
    """
    # every pair has beads of its own, so that the energies of beads are those of pairs
    beads = torch.arange(types.numel()).reshape(-1, 2)
    energies = repulsion(types.reshape(-1), beads[:, 0], beads[:, 1], vectors)
    return torch.relu(energies.reshape(-1, 2).sum(dim=1) - repulsion.height)
