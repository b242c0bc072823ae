"""Import this module where potentials are read without `CGPotential`.

It registers the operators that fast potential files call, so that ``torch.jit.load`` reads them,
and loads the OpenMM plug-in of `TorchForce` where there is one, so that ``openmm.XmlSerializer``
reads systems that `CGPotential` made.
"""

from contextlib import suppress

from openmm_cgkd.exceptions import CompatibilityError
from openmm_cgkd.potential import torch_ops  # noqa: F401  registers the operators
from openmm_cgkd.simulation.engines import import_torch_force

with suppress(CompatibilityError):  # the operators serve without it: torch alone, or PythonForce
    import_torch_force()
