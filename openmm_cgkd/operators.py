"""Import this module where potentials are read without `CGPotential`.

It registers the operators that fast potential files call, so that ``torch.jit.load`` reads them,
and loads the OpenMM plug-in of `TorchForce` where there is one, so that ``openmm.XmlSerializer``
reads systems that `CGPotential` made.
"""

from contextlib import suppress

from .exceptions import CompatibilityError
from .potential import torch_ops as fast  # noqa: F401  registered on import
from .simulation.engines import import_torch_force

with suppress(CompatibilityError):  # the operators serve without it: torch alone, or PythonForce
    import_torch_force()
