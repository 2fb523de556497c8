"""A machine that runs PTX on the CPU: compiled kernels are executed and sanitised without a GPU.

``parse`` reads the text into a ``program``, ``machine`` runs blocks of threads, ``instructions``
has one function for each instruction, ``shared`` and ``memory`` watch every access, ``launch``
starts a kernel as ``kernels.json`` says, and ``cases`` has what each op's kernel is run on and must
give.

Registers are NumPy arrays over the threads of all blocks that run together. Approximate
instructions err by as much as the PTX manual allows, and tensor cores cut their sums as the
hardware does, so that a result within its budget here stays within it on a GPU.
"""
