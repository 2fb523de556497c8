"""The PTX of a kernel as TensorRT takes it: without Triton's hidden parameters, of an old ISA."""

from __future__ import annotations

import re

from clinreadnet.errors import CheckFailed

ISA = {75: 80, 80: 80, 86: 80, 89: 80, 90: 80, 100: 86, 120: 87}
"""Version of the PTX ISA to write, by compute capability: 80 for 8.0, which CUDA 12.0 introduced,
or the first that knows the GPU. An older driver refuses newer PTX."""

_ENTRY = r"(\.visible\s+\.entry\s+{entry}\s*\()(?P<parameters>[^)]*)(\))"
_VERSION = re.compile(r"^\.version (\d+\.\d+)$", re.M)


def isa_of(ptx: str) -> str:
    """Return the version of the ISA that PTX names, such as "8.7".

    Raises:
        CheckFailed: it names none.
    """
    found = _VERSION.search(ptx)
    if found is None:
        raise CheckFailed("the PTX names no ISA; it is not from Triton")
    return found[1]


def without_hidden(ptx: str, entry: str, hidden: int) -> str:
    """Return PTX whose kernel lacks its last parameters, which TensorRT would not pass.

    Args:
        ptx: text of the file.
        entry: name of the kernel.
        hidden: number of parameters to remove.

    Raises:
        CheckFailed: there is no such kernel, or it reads one of them.
    """
    head = re.search(_ENTRY.format(entry=re.escape(entry)), ptx)
    if head is None:
        raise CheckFailed(f"{entry}: not a kernel of this PTX")
    parameters = [one.strip() for one in head["parameters"].split(",")]
    kept, cut = parameters[: len(parameters) - hidden], parameters[len(parameters) - hidden :]
    body = ptx[head.end() :]
    for one in cut:
        name = one.split()[-1]
        if re.search(rf"{re.escape(name)}\b", body):
            raise CheckFailed(f"{entry}: reads its hidden parameter {name}, which TensorRT lacks")
    return ptx[: head.start()] + head[1] + "\n\t" + ",\n\t".join(kept) + "\n" + head[3] + body


def parameter_count(ptx: str, entry: str) -> int:
    """Return the number of parameters of a kernel.

    Raises:
        CheckFailed: there is no such kernel.
    """
    head = re.search(_ENTRY.format(entry=re.escape(entry)), ptx)
    if head is None:
        raise CheckFailed(f"{entry}: not a kernel of this PTX")
    return len(head["parameters"].split(","))
