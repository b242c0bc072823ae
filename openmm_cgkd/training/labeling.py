"""Labels: forces and per-bead energies of the teachers' mean for every frame.

Labels hold no prior: teachers and student share it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from openmm_cgkd.config.run import SplitConfig
from openmm_cgkd.config.section import fingerprint
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.frames.seal import seal
from openmm_cgkd.frames.split import Split, apply_split
from openmm_cgkd.potential.forces import cutoff_of
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.hdf5_output import hdf5_output
from openmm_cgkd.utils.lock import locked_file

from .ensemble import Ensemble, ensemble_forces
from .gradient_check import Consistency, check_consistency
from .graphs import FrameGraphs
from .label_parts import Parts, energy_offsets, write_parts
from .mean_force_test import load_mean_force_test

logger = logging.getLogger(__name__)


def label_frames(
    frames: Frames,
    ensemble: Ensemble,
    path: Path | str,
    split: SplitConfig | None = None,
    *,
    mean_forces: Path | str | None = None,
) -> Path:
    """Write forces and per-bead energies of the teachers for every frame to an HDF5 file.

    Memory does not grow with the number of frames, and finished parts survive an interruption.

    Parameters
    ----------
    frames : Frames
    ensemble : Ensemble
    path : path
        Complete or absent afterwards; `load_labels` reads it.
    split : SplitConfig, optional
        As for the teachers: energies are centred over the training frames, and figures of merit are
        those of the validation frames.
    mean_forces : path, optional
        Mean-force frames, to report errors that are free of noise.

    Raises
    ------
    TrainingError
        If a teacher's forces are not the gradient of its energies, or a label is not finite.
    BoxError
        If the cutoff exceeds half the smallest box height.
    """
    path, settings = Path(path), split or SplitConfig()
    check_cutoff(frames.box, ensemble.cutoff)
    chosen = apply_split(frames, settings)
    checks = [
        check_consistency(network, cutoff_of(network), frames, chosen.validation)
        for network in ensemble.networks
    ]
    for k, check in enumerate(checks):
        logger.info(
            "teacher %d: forces against central differences of the energies: %s",
            k,
            _describe(check),
        )
    inputs = fingerprint(label_inputs(frames, ensemble, settings))
    with locked_file(path):
        parts = Parts(path.with_suffix(".parts"), inputs)
        parts.compute(ensemble, frames, "labels", refuse=True)
        offsets = energy_offsets(parts, frames.beads.types, chosen.training)
        with (
            replacing(path) as fresh,
            hdf5_output(fresh) as output,
            h5py.File(output, "w", libver="latest") as file,
        ):
            write_parts(file, parts, offsets, frames, np.ones(len(frames), dtype=bool))
            file.attrs.update(
                {
                    "frames": frames.identity,
                    "teachers": ensemble.hashes,
                    "prior": ensemble.prior.identity,
                }
            )
            file.attrs["consistency_max"] = [check.max_error for check in checks]
            file.attrs["consistency_rms"] = [check.rms_error for check in checks]
            file.attrs.update(_quality(file, frames, ensemble, chosen))
            file.attrs.update(_mean_force_errors(mean_forces, frames, ensemble, chosen))
            seal(file)
        parts.clear()
    return path


def label_inputs(frames: Frames, ensemble: Ensemble, split: SplitConfig) -> dict[str, object]:
    """What labels depend on, as identities and settings."""
    return {
        "frames": frames.identity,
        "teachers": ensemble.hashes,
        "prior": ensemble.prior.identity,
        "split": split,
    }


def _describe(check: Consistency) -> str:
    return (
        f"relative error at most {check.max_error:.1e}, RMS {check.rms_error:.1e},"
        f" {check.components} components, float64"
    )


def _quality(file: h5py.File, frames: Frames, ensemble: Ensemble, split: Split) -> dict[str, float]:
    """Figures of merit on the validation frames."""
    chosen = split.validation  # contiguous in time
    graphs = FrameGraphs(frames[chosen], ensemble.cutoff, ensemble.prior)
    names = ("forces", "single_forces", "force_spread")
    forces, single, spreads = (
        file[name][chosen[0] : chosen[-1] + 1].astype(float) for name in names
    )
    everything = np.arange(len(graphs))
    rmse, ratio = mapped_error(forces, graphs, everything)
    single_rmse, _ = mapped_error(single, graphs, everything)
    spread = float(np.sqrt(np.mean(spreads**2)))
    logger.info(
        "ensemble on %d validation frames: force RMSE against mapped forces %.2f kJ/mol/nm "
        "(first teacher alone %.2f), "
        "%.4f of label variance; spread of the teachers %.2f kJ/mol/nm",
        len(graphs), rmse, single_rmse, ratio, spread,
    )  # fmt: skip
    figures = {
        "force_rmse": rmse,
        "single_force_rmse": single_rmse,
        "force_ratio": ratio,
        "force_spread": spread,
    }
    return {f"validation_{name}": value for name, value in figures.items()}


def _mean_force_errors(
    mean_forces: Path | str | None, frames: Frames, ensemble: Ensemble, split: Split
) -> dict[str, float]:
    """Errors of the ensemble and of its first member against mean forces, if there are some."""
    test = load_mean_force_test(mean_forces, frames, ensemble.cutoff, ensemble.prior, split)
    if test is None:
        return {}
    forces = ensemble_forces(ensemble, test.graphs)
    errors, single = test.errors(forces.mean(axis=0)), test.errors(forces[0])
    logger.info(
        "ensemble: force RMSE against mean forces %.2f +- %.2f kJ/mol/nm, first teacher alone %.2f"
        " +- %.2f",
        *(
            values[name]
            for values in (errors, single)
            for name in ("mean_force_rmse", "mean_force_rmse_se")
        ),
    )
    return errors | {f"single_{name}": value for name, value in single.items()}


def mapped_error(
    forces: np.ndarray, graphs: FrameGraphs, indices: np.ndarray
) -> tuple[float, float]:
    """Error of network forces plus prior against the mapped forces.

    Returns its root mean square in kJ/mol/nm, and the square of that over the label variance.
    """
    mapped = graphs.frames.forces[indices]
    error = float(np.mean((forces + graphs.prior_forces[indices] - mapped) ** 2, dtype=float))
    return float(np.sqrt(error)), error / float(np.var(mapped, dtype=float))
