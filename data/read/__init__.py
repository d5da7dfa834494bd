"""Files to `Session`: NWB, brainsets HDF5, MATLAB and NumPy files, arrays, pynapple objects, files on DANDI.

Imports: the nouns and `ndt.config`.
"""

__all__: list[str] = []
