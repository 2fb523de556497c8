"""Limits of files and arguments, with the reason for each value.

docs/security.md lists them. A limit is far above the values of real data, and low enough that an
input beyond it raises an error within a second.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limit:
    """A limit.

    Attributes:
        name: name of the constant in this module.
        value: the largest accepted value; the smallest where ``least``.
        unit: unit of the value, such as "bytes".
        of: the limited quantity.
        reason: reason for the value.
        least: whether it is a lower bound.
    """

    name: str
    value: int
    unit: str
    of: str
    reason: str
    least: bool = False


LIMITS: list[Limit] = []
"""All limits, in the order of this module."""


def _limit(name: str, value: int, unit: str, of: str, reason: str, *, least: bool = False) -> int:
    LIMITS.append(Limit(name, value, unit, of, reason, least))
    return value


# Files of slices.
FRAMES = _limit(
    "FRAMES",
    2**14,
    "slices",
    "slices in one file",
    "A perfusion series has about 13,000.",
)
SMALLEST_SIDE = _limit(
    "SMALLEST_SIDE",
    64,
    "pixels",
    "rows, and columns, with `--resample`",
    "Thumbnails and test patterns are not slices; millions of them fit in a small file.",
    least=True,
)
LARGEST_SIDE = _limit(
    "LARGEST_SIDE",
    4096,
    "pixels",
    "rows, and columns, with `--resample`",
    "Scanners reconstruct up to 2048.",
)
DICOM_HEADER = _limit(
    "DICOM_HEADER",
    16 * MIB,
    "bytes",
    "DICOM data before the pixels",
    "An Enhanced CT file describes a frame in about 1 kB.",
)
DICOM_ELEMENTS = _limit(
    "DICOM_ELEMENTS",
    2**13,
    "elements",
    "DICOM elements and items before the pixels, and one more for each 2048 bytes of the file",
    "A CT image has a few hundred, an Enhanced CT file less than 100 to a frame.",
)
INFLATED = _limit(
    "INFLATED",
    128 * MIB,
    "bytes",
    "a deflated DICOM file, inflated",
    "256 slices; the whole file is one compressed block.",
)
TIF_TAGS = _limit(
    "TIF_TAGS",
    256,
    "tags",
    "tags of an image in a `.tif` file",
    "Real images have 10 to 50; each may claim the whole file as its value.",
)
TIF_FILE = _limit(
    "TIF_FILE",
    16 * MIB,
    "bytes",
    "a `.tif` file",
    "A float64 slice has 2 MiB.",
)
NPY_HEADER = _limit(
    "NPY_HEADER", 10_000, "bytes", "the header of an `.npy` array", "NumPy's own limit."
)
METAIMAGE_HEADER = _limit(
    "METAIMAGE_HEADER",
    2**16,
    "bytes",
    "the header of a `.mha` or `.mhd` file",
    "SimpleITK writes less than 1 kB, and a line for each DICOM tag if asked to.",
)
DEFLATE_RATIO = _limit(
    "DEFLATE_RATIO",
    1032,
    "times",
    "the growth of a deflated block",
    "DEFLATE cannot do more, so a header that promises more is wrong.",
)
ARCHIVE_INDEX = _limit(
    "ARCHIVE_INDEX",
    2**16,
    "bytes",
    "the list of arrays in an `.npz` archive",
    "An array takes about 60.",
)
LABELS = _limit(
    "LABELS",
    64 * MIB,
    "bytes",
    "a file of labels, of a simulation, or of scores in JSON",
    "A record of an image has about 500 bytes.",
)
GRADED_SLICES = _limit(
    "GRADED_SLICES",
    2**12,
    "slices",
    "graded slices that `agree` compares",
    "LDCTIQAG2023 has 1000; the bootstrap compares each with each.",
)
READERS = _limit(
    "READERS",
    64,
    "readers",
    "readers of these",
    "LDCTIQAG2023 has five; each is compared with each.",
)
PROTOCOL_LIMITS = _limit(
    "PROTOCOL_LIMITS", 64 * 2**10, "bytes", "a file of `--limits`", "A protocol takes about 100."
)
RECIPE = _limit(
    "RECIPE", 64 * 2**10, "bytes", "a recipe of `train`", "The shipped one has less than 1 kB."
)
SCORES_FILE = _limit(
    "SCORES_FILE",
    2**30,
    "bytes",
    "a file of scores that `summarize` reads",
    "A row of CSV has about 200 bytes.",
)
SCORES_LINE = _limit(
    "SCORES_LINE", 2**16, "characters", "a line of a CSV file of scores", "A row has about 200."
)
SCORES_ROWS = _limit(
    "SCORES_ROWS",
    2**23,
    "rows",
    "rows of such a file",
    "50 series of 400 slices on each day of a year are 7.3 million; a small Parquet file can "
    "repeat a row without end.",
)
SITE_MAP = _limit("SITE_MAP", MIB, "bytes", "a site map", "A knot has about 40 bytes.")
TILES = _limit("TILES", 2**17, "images", "images in `tiles.npz`", "They are read at once: 256 MiB.")

# Hounsfield units of a slice (`clinreadnet.data.plausibility`). In 40 scanned slices from four
# sources, soft tissue fills 16 % to 71 %, air, lung and fat 28 % or more, what is denser than most
# bone 1 % or less, and the coarsest has 132 levels.
LEAST_HU = _limit(
    "LEAST_HU",
    -(2**15),
    "HU",
    "a pixel of a slice",
    "Scanners store 16 bits; padding is -2000 to -3024, or this.",
    least=True,
)
LARGEST_HU = _limit(
    "LARGEST_HU",
    2**16,
    "HU",
    "a pixel of a slice",
    "Scanners store 16 bits; metal has up to 31,000 on an extended scale.",
)
LEVELS = _limit(
    "LEVELS",
    64,
    "values",
    "different values of a slice, in whole HU",
    "Masks, and encoded values in 0...1 taken for HU, have a few; half of the coarsest slice seen.",
    least=True,
)
SOFT_TISSUE = _limit(
    "SOFT_TISSUE",
    2,
    "% of pixels",
    "-300 to 400 HU in a slice",
    "A newborn in a field of 500 mm fills 3 %; air alone, and a wrong slope, have next to none.",
    least=True,
)
AIR_AND_FAT = _limit(
    "AIR_AND_FAT",
    1,
    "% of pixels",
    "below -30 HU in a slice",
    "Every body has fat, gas or air around it; grey values of a screen or of MR have none.",
    least=True,
)
DENSE = _limit(
    "DENSE",
    20,
    "% of pixels",
    "above 700 HU in a slice",
    "Skull, teeth and metal fill less than 10 %; air does if its sign is lost.",
)

# Bundles.
MANIFEST = _limit(
    "MANIFEST", MIB // 2, "bytes", "`manifest.json`", "Real manifests have about ten thousand."
)
NESTING = _limit(
    "NESTING", 32, "levels", "the nesting of `manifest.json`", "Real manifests have six levels."
)
GRAPH_FIELDS = _limit(
    "GRAPH_FIELDS",
    2**18,
    "fields",
    "fields of an ONNX file",
    "The shipped graphs have about eight thousand.",
)
GRAPH_NESTING = _limit(
    "GRAPH_NESTING",
    64,
    "messages",
    "the nesting of an ONNX file",
    "Real graphs have six; protobuf itself stops at 100.",
)
KEYS = _limit("KEYS", 2**16, "bytes", "a file of keys", "A public key has 113 bytes.")
BUNDLE_FILE = _limit(
    "BUNDLE_FILE",
    2**31,
    "bytes",
    "one file of a bundle",
    "An ONNX file cannot be larger; the shipped network has 30 MB.",
)
GOLDEN_SLICES = _limit(
    "GOLDEN_SLICES",
    512,
    "slices",
    "golden slices",
    "`clinreadnet export` writes 32 at most; they are unpacked at once.",
)
LEAST_BATCH = _limit(
    "LEAST_BATCH",
    16,
    "slices",
    "`batch.min` of an artifact",
    "Smaller batches are filled up to it, so that one slice would cost as much as many.",
)
LARGEST_BATCH = _limit(
    "LARGEST_BATCH",
    1024,
    "slices",
    "`batch.max` of an artifact",
    "The graphs are exported for no more; larger batches are not faster.",
)

# Arguments of a session.
THREADS = _limit("THREADS", 256, "threads", "`threads` of a `Session`", "They are started at once.")
WORKERS = _limit(
    "WORKERS",
    64,
    "runs",
    "`workers` of a `Session`",
    "On a GPU each has its own memory, which is taken at the start.",
)
CAPACITY = _limit(
    "CAPACITY",
    4096,
    "slices",
    "`capacity` of a stream",
    "A waiting slice takes up to 2 MiB.",
)

# The DICOM node.
PDU = _limit(
    "PDU",
    MIB,
    "bytes",
    "a PDU that `listen` receives",
    "It announces 128 KiB; a request for an association has a few kB.",
)
COMMAND = _limit(
    "COMMAND",
    2**16,
    "bytes",
    "the command set of a DIMSE message",
    "That of C-STORE has about 200 bytes.",
)
MESSAGES = _limit(
    "MESSAGES",
    8,
    "messages",
    "unanswered messages of an association",
    "A peer waits for each answer, because no other window is negotiated.",
)
STOW_ANSWER = _limit(
    "STOW_ANSWER",
    MIB,
    "bytes",
    "the answer of a DICOMweb service to `listen`",
    "It is about one object; a longer answer is not looked at.",
)
SPOOL_FREE = _limit(
    "SPOOL_FREE",
    8 * MIB,
    "bytes",
    "free space beside the spool before an object is accepted",
    "Reports of what waits still have to be written.",
    least=True,
)

# Outputs.
PAGE_SLICES = _limit(
    "PAGE_SLICES",
    1000,
    "slices",
    "slices on a page of `score --html`",
    "Each takes up to 150 kB; browsers become slow above 150 MB.",
)

# Messages.
MESSAGE = _limit(
    "MESSAGE",
    300,
    "characters",
    "an error message",
    "It is one line in a log; longer ones lose their middle.",
)
