"""All checks that need a GPU, in one command: `python -m bench.gpu_check` (docs/benchmarking.md).

`plan` holds the steps, `install` prepares a machine without a package index, `run` runs one unit
and merges its result. Nothing here imports what may have to be installed first.
"""
