"""What an exported potential says about itself: ``metadata.json`` inside the TorchScript file."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .exceptions import ModelFileError

FORMAT = "openmm_cgkd potential"
VERSION = 1
FILE_NAME = "metadata.json"
_UNITS = {"length": "nanometer", "energy": "kilojoule/mole", "mass": "dalton", "temperature": "kelvin"}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("openmm_cgkd", "torch", "openmm", "openmmtorch", "torchmd-net"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class PotentialMetadata(BaseModel):
    """Everything a user or `CGPotential` must know about a potential file.

    Attributes
    ----------
    type_names : list of str
        Bead type names; the potential's ``types`` index them.
    masses : list of float, dalton
        Mass of a bead of each type.
    cutoff : float, nm
    prior : dict
        Parameters of the pair repulsion, as `PriorParameters`.
    network : dict
        Configuration of the network, as `ModelConfig`, and its energy scale in kJ/mol.
    system : str
        Name of the fluid it was trained on.
    temperature : float, kelvin
        Temperature of the all-atom frames; a coarse-grained potential is a free energy and holds there.
    training : dict
        Loss weights, targets, seeds, losses.
    frames_sha256, checkpoint_sha256 : str
        Identities of the training frames and of the student's checkpoint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["openmm_cgkd potential"] = FORMAT
    version: int = VERSION
    type_names: list[str] = Field(min_length=1)
    masses: list[float]
    cutoff: float = Field(gt=0)
    units: dict[str, str] = _UNITS
    prior: dict[str, Any]
    network: dict[str, Any]
    system: str = ""
    temperature: float | None = None
    training: dict[str, Any] = {}
    frames_sha256: str | None = None
    checkpoint_sha256: str | None = None
    versions: dict[str, str] = Field(default_factory=_versions)
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @model_validator(mode="after")
    def _every_type_has_a_mass(self) -> Self:
        if len(self.masses) != len(self.type_names) or not all(0 < mass < float("inf") for mass in self.masses):
            raise ValueError(f"masses {self.masses} do not fit bead types {self.type_names}; give each a positive mass in dalton")
        return self


def read_metadata(path: Path | str) -> PotentialMetadata:
    """Read the metadata of an exported potential, without loading the potential.

    Raises
    ------
    ModelFileError
        If the file is missing, not TorchScript, TorchScript from elsewhere, or of a newer format version.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; export a potential with 'cgkd export'.")
    try:
        with zipfile.ZipFile(path) as archive:  # TorchScript files are zip archives
            names = archive.namelist()
            if not any("/code/" in name for name in names):
                raise ModelFileError(f"{path}: is not a TorchScript file (a training checkpoint?); export a potential with 'cgkd export'.")
            inside = next((name for name in names if name.endswith(f"/extra/{FILE_NAME}")), None)
            data = json.loads(archive.read(inside)) if inside else {}
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelFileError(f"{path}: is not a TorchScript file, or is damaged; export a potential with 'cgkd export'.") from error
    except ValueError as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path}: its {FILE_NAME} cannot be read; export it again with 'cgkd export'.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ModelFileError(f"{path}: is TorchScript but not a potential of this package; export one with 'cgkd export'.")
    if not isinstance(data.get("version"), int) or data["version"] > VERSION:
        raise ModelFileError(f"{path}: has format version {data.get('version')}, this package reads up to {VERSION}; upgrade openmm_cgkd.")
    try:
        return PotentialMetadata.model_validate(data)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "masses"
        raise ModelFileError(f"{path}: field {field} of its {FILE_NAME} is not valid; export it again with 'cgkd export'.") from error
