"""A map from scores to the grades of a site's readers, and its file.

The map is monotone and linear between its knots: NumPy alone applies it. It belongs to the
checkpoint that it was fitted for. `clinreadnet.readers.fit` makes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinreadnet import limits
from clinreadnet.errors import InputError, counted, first_line
from clinreadnet.files import AnyPath, read_regular, whole_file
from clinreadnet.runtime.bundle.sign import sign_file
from clinreadnet.runtime.bundle.trust import (
    SIGNATURE_SUFFIX,
    KeyFile,
    check_signature,
    public_keys,
)
from clinreadnet.scoring.result import SliceScore
from clinreadnet.spec import GRADE_RANGE, RESEARCH_USE


class SiteMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A monotone map from scores to the grades of a site.

    Attributes:
        kind: what the file is.
        schema_version: version of the format.
        created: time in UTC, such as 2026-01-31T12:00:00Z.
        clinreadnet_version: version that fitted it.
        weights_sha256: SHA-256 of the weights whose scores it maps.
        bad: the site's worst grade.
        excellent: the site's best grade.
        scores: scores 0 ... 4 of the knots, ascending.
        grades: the site's grade at each knot, monotone from ``bad`` towards ``excellent``.
        slices: number of graded slices.
        patients: number of their patients; None if no patient was stated.
        readers: number of readers.
        folds: parts of the cross-validation.
        mae_before: mean absolute error of the score, put linearly on the site's scale.
        mae_after: cross-validated mean absolute error of the map.
        research_use: the line on research use.
    """

    kind: Literal["clinreadnet site map"] = "clinreadnet site map"
    schema_version: Literal[1] = 1
    created: str
    clinreadnet_version: str
    weights_sha256: str
    bad: float
    excellent: float
    scores: tuple[float, ...]
    grades: tuple[float, ...]
    slices: int
    patients: int | None
    readers: int
    folds: int
    mae_before: float
    mae_after: float
    research_use: str = RESEARCH_USE

    def apply(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the site's grades [n] of scores [n]. Beyond the knots the map is constant."""
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.scores, self.grades))

    def check_weights(self, weights_sha256: str) -> None:
        """Check that the map was fitted for these weights.

        Raises:
            InputError: it was fitted for others.
        """
        if weights_sha256 != self.weights_sha256:
            raise InputError(
                f"the site map was fitted for weights {self.weights_sha256[:12]}, and the bundle "
                f"has {weights_sha256[:12]}; fit it again with `clinreadnet fit-site-map`"
            )

    @property
    def scale(self) -> str:
        """The site's scale as text."""
        return f"{self.bad:g} (bad) ... {self.excellent:g} (excellent)"

    @property
    def name(self) -> str:
        """The scale and when the map was fitted, which names it beside each site score."""
        return f"{self.scale}, fitted {self.created}"

    @property
    def line(self) -> str:
        """The map as a line of text."""
        of = "reader" if self.readers == 1 else counted(self.readers, "reader")
        return (
            f"Site scores: the grade of the site's {of}, {self.scale}, by a map from the score "
            f"that was fitted to {counted(self.slices, 'slice')} on {self.created[:10]}"
        )


def read_site_map(path: AnyPath, trusted_keys: Sequence[KeyFile] | None = None) -> SiteMap:
    """Read the file of a map.

    Args:
        path: the file.
        trusted_keys: PEM files of public keys. If given, the file must be signed by one of them.

    Raises:
        InputError: the file cannot be read or is not such a file.
        Untrusted: the file is not signed by a trusted key.
    """
    keys = None if trusted_keys is None else public_keys(trusted_keys)
    content = read_regular(path, limits.SITE_MAP)
    if keys is not None:
        check_signature(Path(path), content, keys)
    try:
        found = msgspec.json.decode(content, type=SiteMap)
        _check(found)
    except (msgspec.DecodeError, ValueError) as error:
        raise InputError(
            f"{path}: is not a site map ({first_line(error)}); make one with "
            "`clinreadnet fit-site-map`"
        ) from None
    return found


def write_site_map(site_map: SiteMap, target: AnyPath) -> None:
    """Write the file of a map atomically."""
    content = msgspec.json.format(msgspec.json.encode(site_map), indent=2)
    with whole_file(target) as temporary:
        temporary.write_bytes(content + b"\n")


def sign_site_map(path: AnyPath, key: KeyFile) -> Path:
    """Check the file of a map and sign it.

    Returns:
        Path of the signature, the file's with the suffix ``.sig``.

    Raises:
        InputError: the file is not a map or has that suffix, or the key cannot be used.
    """
    if Path(path).suffix == SIGNATURE_SUFFIX:
        raise InputError(f"{path}: ends like a signature; rename the site map")
    read_site_map(path)
    return sign_file(Path(path), read_regular(path, limits.SITE_MAP), key)


def site_scores(slices: Sequence[SliceScore], site_map: SiteMap) -> list[SliceScore]:
    """Return slices with their site scores."""
    values = site_map.apply([entry.score for entry in slices]).tolist()
    return [
        replace(entry, site_score=value, site_map=site_map.name)
        for entry, value in zip(slices, values, strict=True)
    ]


def site_lines(slices: Sequence[SliceScore], site_map: SiteMap | None) -> list[str]:
    """Return lines of text about the site scores of slices; none without a map."""
    if site_map is None:
        return []
    low, high = site_map.scores[0], site_map.scores[-1]
    beyond = sum(not low <= entry.score <= high for entry in slices)
    if not beyond:
        return [site_map.line]
    return [
        site_map.line,
        f"{counted(beyond, 'score', len(slices), verb='lies')} outside {low:.2f} ... {high:.2f}, "
        "which the map was "
        "fitted to; beyond, the site score is that of the map's end",
    ]


def _check(site_map: SiteMap) -> None:
    """Raise ValueError if the fields contradict each other."""
    scores, grades = np.array(site_map.scores), np.array(site_map.grades)
    ends = site_map.bad, site_map.excellent
    numbers = [*ends, site_map.mae_before, site_map.mae_after, *scores, *grades]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    if len(scores) != len(grades) or len(scores) < 2:
        raise ValueError("needs two knots or more, with a score and a grade each")
    if (np.diff(scores) <= 0).any() or scores[0] < 0 or scores[-1] > GRADE_RANGE:
        raise ValueError("the scores of the knots do not ascend inside 0 ... 4")
    if (np.diff(grades) * np.sign(ends[1] - ends[0]) < 0).any() or grades[0] == grades[-1]:
        raise ValueError("the grades of the knots do not rise towards the best grade")
    if grades.min() < min(ends) or grades.max() > max(ends):
        raise ValueError("a grade is not on the scale")
