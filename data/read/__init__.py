"""Files to `Session`: NWB, brainsets HDF5, MATLAB and NumPy files, arrays, pynapple objects, files on DANDI.

Imports: the nouns, `ndt.config`, and `covariates`, `splits` and `store` of `ndt.data`.
"""

__all__: list[str] = []
