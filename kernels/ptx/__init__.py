"""A machine that runs PTX on the CPU, to execute and sanitise compiled kernels without a GPU.

``parse`` reads text into a ``program``, ``machine`` runs blocks of threads, ``instructions``
contains a function for each instruction, ``shared`` and ``memory`` check every access, ``launch``
launches a kernel of ``kernels.json``, and ``cases`` contains inputs and expected outputs for the
kernel of each op.

Registers are NumPy arrays over the threads of all concurrent blocks. Approximate instructions have
the largest error that the PTX manual allows, and tensor cores truncate sums like the hardware, so a
result within its budget here is within it on a GPU.
"""
