"""Rules of a site: a map to the grades of its readers, and limits for each protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinreadnet.files import AnyPath
from clinreadnet.runtime.bundle.trust import KeyFile
from clinreadnet.scoring.breaches import LimitReport, check_limits
from clinreadnet.scoring.protocol_limits import ProtocolLimits, read_protocol_limits
from clinreadnet.scoring.result import SliceScore
from clinreadnet.scoring.site_map import SiteMap, read_site_map, site_scores


@dataclass(frozen=True)
class SiteRules:
    """Rules that a site applies to scores.

    Attributes:
        site_map: map that makes site scores beside the scores; None without.
        limits: limits with which each series is compared; None without.
    """

    site_map: SiteMap | None = None
    limits: ProtocolLimits | None = None

    def check(self, *, figures: bool, weights_sha256: str | None = None) -> None:
        """Check that the rules can be applied to the scores of a bundle.

        Args:
            figures: whether figures are measured.
            weights_sha256: weights of the bundle; None if they are not known yet.

        Raises:
            InputError: figures are limited that are not measured, or the map was fitted for other
                weights.
        """
        if self.limits is not None:
            self.limits.check_figures(figures)
        if self.site_map is not None and weights_sha256 is not None:
            self.site_map.check_weights(weights_sha256)

    def apply(self, slices: Sequence[SliceScore]) -> tuple[list[SliceScore], LimitReport | None]:
        """Return slices with their site scores, and their series compared with the limits."""
        scored = list(slices)
        if self.site_map is not None:
            scored = site_scores(scored, self.site_map)
        return scored, None if self.limits is None else check_limits(scored, self.limits)


NO_RULES = SiteRules()


def read_site_rules(
    site_map: AnyPath | None,
    limits: AnyPath | None,
    trusted_keys: Sequence[KeyFile] | None = None,
) -> SiteRules:
    """Read the files of a site; without a file there is no such rule.

    Args:
        site_map: file of a site map.
        limits: file of limits.
        trusted_keys: PEM files of public keys. If there are any, the site map must be signed by
            one of them.

    Raises:
        InputError: a file cannot be read or is not such a file.
        Untrusted: the site map is not signed by a trusted key.
    """
    return SiteRules(
        None if site_map is None else read_site_map(site_map, trusted_keys or None),
        None if limits is None else read_protocol_limits(limits),
    )
