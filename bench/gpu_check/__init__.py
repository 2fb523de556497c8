"""Run all checks that need a GPU: `python -m bench.gpu_check` (docs/benchmarking.md).

`plan` contains the steps, `install` prepares a machine without a package index, `run` runs units
and merges results. These modules do not import packages that may need to be installed first.
"""
