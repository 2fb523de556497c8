"""Files of limits: the section of a protocol, and refused files."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinreadnet.errors import InputError
from clinreadnet.limits import PROTOCOL_LIMITS
from clinreadnet.scoring.protocol_limits import LIMITS, read_protocol_limits

SITE = """
[default]
least_mean_score = 2.5
least_score = 1
most_noise_hu = 15.0
most_ssde_mgy = 18.0
most_novel_share = 0.2

[protocol."ABD*"]
most_noise_hu = 20.0
category = "Abdomen, routine"

[protocol."*low dose*"]
least_mean_score = 2.0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "limits.toml"
    path.write_text(text)
    return path


def test_a_section_replaces_some_of_the_default(tmp_path: Path) -> None:
    site = read_protocol_limits(write(tmp_path, SITE))
    assert list(site.default.bounds) == list(LIMITS)
    assert site.default.bounds["least_score"] == 1.0
    abdomen = site.of("ABD/PELVIS")
    assert abdomen.bounds == {**site.default.bounds, "most_noise_hu": 20.0}
    assert (abdomen.category, site.default.category) == ("Abdomen, routine", "")
    assert site.figures == ("noise_hu", "ssde_mgy")


@pytest.mark.parametrize(
    ("protocol", "pattern"),
    [
        ("ABD", "ABD*"),
        ("abd low dose", "ABD*"),  # the first section that matches, without regard to case
        ("Liver Low Dose 2", "*low dose*"),
        ("Chest ABD", "*"),
        ("", "*"),
        (None, "*"),
    ],
)
def test_the_first_section_that_matches_holds(
    tmp_path: Path, protocol: str | None, pattern: str
) -> None:
    assert read_protocol_limits(write(tmp_path, SITE)).of(protocol).pattern == pattern


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[default\n", "not a TOML file"),
        ("a = " + "1" * 5000, "not a TOML file"),
        ("", "sets no limit; known: least_mean_score"),
        ("[default]\n", "sets no limit"),
        ('[protocol."A"]\ncategory = "x"', "category needs most_noise_hu and most_ssde_mgy too"),
        ("[limits]\n", "limits: unknown; give [default] and"),
        ("default = 3", "default: 3 is not a section"),
        ("protocol = 3", "protocol: not a section"),
        ("[protocol]\nAbdomen = 3", "protocol.'Abdomen': 3 is not a section"),
        ("[default]\nmost_noise = 3", "default: most_noise: unknown; known: least_mean_score"),
        (
            '[protocol."A"]\nleast_score = "2"',
            "protocol.'A': least_score is '2'; expected a number",
        ),
        ("[default]\nleast_score = true", "default: least_score is True; expected a number"),
        ("[default]\nleast_score = 4.5", "is 4.5; expected more than 0, at most 4"),
        ("[default]\nleast_mean_score = 0", "is 0.0; expected more than 0, at most 4"),
        ("[default]\nmost_noise_hu = -1", "is -1.0; expected more than 0"),
        ("[default]\nmost_ssde_mgy = inf", "is inf; expected more than 0"),
        ("[default]\nmost_ssde_mgy = nan", "is nan; expected more than 0"),
        ("[default]\nmost_ssde_mgy = 1" + "0" * 400, "expected more than 0"),
        ("[default]\nmost_novel_share = 1", "is 1.0; expected 0 or more and below 1"),
        (
            "[default]\nleast_mean_score = 2\n[protocol.A]\nleast_score = 3",
            "protocol.'A': least_score 3 is above least_mean_score 2",
        ),
        ("[default]\ncategory = 3", "category is 3; expected 1 to 64 characters"),
        ("[default]\ncategory = ' '", "category is ' '; expected 1 to 64 characters"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_protocol_limits(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and reason in message and "\n" not in message


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    with pytest.raises(InputError, match="limits.toml"):
        read_protocol_limits(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read_protocol_limits(path)
    path.write_text(SITE + "#" * PROTOCOL_LIMITS)
    with pytest.raises(InputError, match=f"at most {PROTOCOL_LIMITS} are read"):
        read_protocol_limits(path)


def test_limited_figures_must_be_measured(tmp_path: Path) -> None:
    site = read_protocol_limits(write(tmp_path, SITE))
    site.check_figures(True)
    with pytest.raises(InputError, match="limits noise_hu and ssde_mgy, which only `figures`"):
        site.check_figures(False)
    read_protocol_limits(write(tmp_path, "[default]\nleast_score = 1")).check_figures(False)
