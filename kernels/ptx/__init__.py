"""A machine that runs PTX on the CPU: compiled kernels are executed and sanitised without a GPU.

``program`` reads the text, ``machine`` runs blocks of threads, ``instructions`` has one function
for each instruction, ``shared`` and ``memory`` watch every access, ``launch`` starts a kernel as
``kernels.json`` says, and ``mutants`` breaks a program on purpose.

Registers are NumPy arrays over the threads of all blocks that run together. Approximate
instructions err by as much as the PTX manual allows, and tensor cores cut their sums as the
hardware does, so that a result within its budget here stays within it on a GPU.
"""
