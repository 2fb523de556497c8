"""Private codes of the DICOM objects, scheme 99CLINREADNET (see docs/dicom-codes.md).

A standard code is used where one exists. DCM 111029 (Image Quality Rating) is not used because it
does not define the scale.
"""

from __future__ import annotations

from pydicom import Dataset
from pydicom.sr.coding import Code

from clinreadnet.spec import LIKERT

SCHEME = "99CLINREADNET"

PRIVATE: list[Code] = []
"""All private codes."""


def _code(value: str, meaning: str) -> Code:
    PRIVATE.append(Code(value, SCHEME, meaning))
    return PRIVATE[-1]


SCORE = _code("SCORE", "Predicted image quality score, 0 bad to 4 excellent")
SITE_SCORE = _code("SITESCORE", "Grade on the scale of the site's readers, mapped from the score")
GRADES = tuple(
    _code(f"GRADE{grade}", f"Probability of grade {grade} ({word})")
    for grade, word in enumerate(LIKERT)
)
"""A code for each grade of the five-point scale."""
PATCH = _code("PATCH", "Lowest predicted score of a 32x32 patch of the body")
NOVELTY = _code("NOVELTY", "Distance from the training data")
DOMAIN = _code("DOMAIN", "Likeness to the training data")
IN_DOMAIN = _code("IN", "Like the training data")
NOVEL = _code("NOVEL", "Unlike the training data: do not use the score")
REGION = _code("REGION", "Part of the body, by the pixels")
REGIONS = {
    "abdomen": _code("ABDOMEN", "Abdomen"),
    "edge": _code("EDGE", "Edge of the abdomen: dome of the liver or pelvis"),
    "outside": _code("OUTSIDE", "Outside the abdomen: do not use the score"),
}
"""Codes of the classes of `clinreadnet.data.region`."""
SLICES = _code("SLICES", "Number of scored slices")
NOVEL_SLICES = _code("NOVELS", "Number of slices unlike the training data")
KERNEL = _code("KERNEL", "Convolution kernel")
EXPOSURE_SOURCE = _code("EXPOSURESOURCE", "Source of the exposure")
NOISE = _code("NOISE", "Global noise level: mode of local deviations in soft tissue")
CUT = _code("CUT", "Share of the border of the field that lies in the body")
AIR = _code("AIR", "Mean of the air around the body")
FAT = _code("FAT", "Mean of subcutaneous fat")
STREAKS = _code("STREAKS", "Standard deviation of streaks in the strongest direction")
VIEWS = _code("VIEWS", "Number of views over half a turn whose streaks are seen, or 0")
VIEW_SHARE = _code("VIEWSHARE", "Share of the fine texture in the directions of few views")
HEAD_DOSE = _code("HEADDOSE", "Estimated from Water Equivalent Diameter by AAPM 293, head")
LIMITS = _code("LIMITS", "Limits of the site for this protocol")
EXCEEDED = _code("EXCEEDED", "A limit is exceeded")
KEPT = _code("KEPT", "No limit is exceeded")
UNCHECKED = _code("UNCHECKED", "No limit is exceeded, but not every one could be checked")
LIMIT_VALUES = {
    "least_mean_score": _code("LEASTMEAN", "Least mean score that the site accepts"),
    "least_score": _code("LEASTSCORE", "Least score of a slice that the site accepts"),
    "most_noise_hu": _code("MOSTNOISE", "Largest mean noise that the site accepts"),
    "most_ssde_mgy": _code("MOSTSSDE", "Largest mean dose for the size that the site accepts"),
    "most_novel_share": _code("MOSTNOVEL", "Largest share of novel slices that the site accepts"),
}
"""Codes of the limits of `clinreadnet.scoring.protocol_limits`."""
QUALITY_MAP = _code("MAP", "Predicted image quality of each 32x32 patch")

# OHIF prints a number and its unit, and leaves out a 0: UCUM's "1" (no units) would be read as the
# number.
_GRADES, _SHARE = (Code(f"{{0:{top}}}", "UCUM", f"range: 0:{top}") for top in (4, 1))
UNITS = {
    **dict.fromkeys([SCORE, PATCH], _GRADES),
    **dict.fromkeys([*GRADES, CUT, VIEW_SHARE], _SHARE),
    VIEWS: Code("{views}", "UCUM", "views"),
    **dict.fromkeys([SLICES, NOVEL_SLICES], Code("{slices}", "UCUM", "slices")),
    NOVELTY: Code("{distance}", "UCUM", "distance"),
    SITE_SCORE: Code("{grade}", "UCUM", "grade"),
    LIMIT_VALUES["least_mean_score"]: _GRADES,
    LIMIT_VALUES["least_score"]: _GRADES,
    LIMIT_VALUES["most_noise_hu"]: Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    LIMIT_VALUES["most_ssde_mgy"]: Code("mGy", "UCUM", "mGy"),
    LIMIT_VALUES["most_novel_share"]: _SHARE,
}
"""Unit of each measurement."""


def identify_scheme(target: Dataset) -> None:
    """Add the private scheme to an object's CodingSchemeIdentificationSequence."""
    item = Dataset()
    item.CodingSchemeDesignator = SCHEME
    item.CodingSchemeName = "ClinReadNet private codes"
    item.CodingSchemeResponsibleOrganization = "ClinReadNet"
    target.CodingSchemeIdentificationSequence = [item]
