"""What an exported potential says about itself: ``metadata.json`` inside the TorchScript file."""

from __future__ import annotations

import hashlib
import json
import zipfile
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from openmm_cgkd.exceptions import ModelFileError

FORMAT: Final = "openmm_cgkd potential"
VERSION = 2
FILE_NAME = "metadata.json"
_UNITS = {
    "length": "nanometer",
    "energy": "kilojoule/mole",
    "mass": "dalton",
    "temperature": "kelvin",
}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("openmm_cgkd", "torch", "openmm", "openmmtorch", "torchmd-net"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def is_custom(network: dict[str, Any]) -> bool:
    """Whether a description of a network is of a user's own one, see `custom_network`."""
    return network.get("kind") == "custom"


class PotentialMetadata(BaseModel):
    """Everything a user or `CGPotential` must know about a potential file.

    Attributes
    ----------
    kind : {"portable", "fast"}
        Plain PyTorch operations, or operators that ``import openmm_cgkd.operators`` registers.
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
        Temperature of the all-atom frames; a coarse-grained potential is a free energy and holds
        there.
    training : dict
        Loss weights, targets, seeds, losses.
    frames_sha256, checkpoint_sha256 : str
        Identities of the training frames and of the student's checkpoint.
    content_sha256 : str
        Of the rest of the file and of these metadata, see `content_hash`; set when the file is
        written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["openmm_cgkd potential"] = FORMAT
    version: int = VERSION
    kind: Literal["portable", "fast"] = "portable"
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
    content_sha256: str = ""

    @property
    def custom_network(self) -> bool:
        """Whether the network is a user's own, which only the engine "portable" runs."""
        return is_custom(self.network)

    @model_validator(mode="after")
    def _every_type_has_a_mass(self) -> Self:
        if len(self.masses) != len(self.type_names) or not all(
            0 < mass < float("inf") for mass in self.masses
        ):
            raise ValueError(
                f"masses {self.masses} do not fit bead types {self.type_names}; give each a"
                " positive mass in dalton"
            )
        return self


def content_hash(records: dict[str, bytes], data: dict[str, Any]) -> str:
    """SHA-256 of everything in a potential file but the hash itself.

    Parameters
    ----------
    records : dict of bytes
        Content of the archive by name, without the folder that all names begin with;
        ``metadata.json`` is left out.
    data : dict
        The metadata; ``content_sha256`` is left out.
    """
    digest = hashlib.sha256()
    for name in sorted(records.keys() - {f"extra/{FILE_NAME}"}):
        digest.update(f"{name} {len(records[name])}\n".encode() + records[name])
    digest.update(
        json.dumps(
            {key: value for key, value in data.items() if key != "content_sha256"}, sort_keys=True
        ).encode()
    )
    return digest.hexdigest()


def read_metadata(path: Path | str) -> PotentialMetadata:
    """Read the metadata of an exported potential, without loading the potential.

    Raises
    ------
    ModelFileError
        If the file is missing, not TorchScript, TorchScript from elsewhere, of another format
        version, or was changed after it was written.
    """
    path = Path(path)
    records = _records(path)
    if not any(name.startswith("code/") for name in records):
        raise ModelFileError(
            f"{path}: is not a TorchScript file (a training checkpoint?); export a potential with"
            " 'cgkd export'."
        )
    try:
        data = json.loads(records.get(f"extra/{FILE_NAME}", b"{}"))
    except ValueError as error:
        raise ModelFileError(
            f"{path}: its {FILE_NAME} cannot be read; export it again with 'cgkd export'."
        ) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: is TorchScript but not a potential of this package; export one with 'cgkd"
            " export'."
        )
    if not isinstance(data.get("version"), int) or data["version"] > VERSION:
        raise ModelFileError(
            f"{path}: has format version {data.get('version')}, this package reads {VERSION};"
            " upgrade openmm_cgkd."
        )
    if data["version"] < VERSION:
        raise ModelFileError(
            f"{path}: has format version {data['version']}, this package reads {VERSION}; export it"
            " again with 'cgkd export'."
        )
    if content_hash(records, data) != data.get("content_sha256"):
        raise ModelFileError(
            f"{path}: its content does not fit the SHA-256 in its {FILE_NAME}, so it was changed"
            " after the export; export it again with 'cgkd export', or get the file again from"
            " where it came."
        )
    try:
        return PotentialMetadata.model_validate(data)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "masses"
        raise ModelFileError(
            f"{path}: field {field} of its {FILE_NAME} is not valid; export it again with 'cgkd"
            " export'."
        ) from error


def _records(path: Path) -> dict[str, bytes]:
    """Content of a zip archive, as TorchScript files are, by name without the first folder."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; export a potential with 'cgkd export'.")
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelFileError(
            f"{path}: is not a TorchScript file, or is damaged; export a potential with 'cgkd"
            " export'."
        ) from error
