"""Options that several commands share, alone and in groups.

A parameter of a command has its name in the library. If the flag differs, it is given explicitly,
so that `clinreadnet.cli.command.spell` finds the flag for a parameter in an error message.

A group is a dataclass of options. A command takes a group as one parameter, and
`clinreadnet.cli.groups.flatten` gives the command the group's options in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinreadnet.backends import BACKENDS
from clinreadnet.precision import spelled
from clinreadnet.training.config import TrainConfig

if TYPE_CHECKING:
    from clinreadnet.scoring.site_rules import SiteRules

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Rows = Annotated[
    Path | None,
    typer.Option(help="Also append each row to this file at once, as a line of JSON."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
NewFolder = Annotated[Path, typer.Option("--out", help="Folder to create.", show_default=False)]
Bundle = Annotated[
    Path | None,
    typer.Option(
        help="Bundle folder. Default: $CLINREADNET_BUNDLE, else ./bundle, else the package's own."
    ),
]
Checkpoint = Annotated[Path | None, typer.Option(help="Checkpoint. Default: the shipped one.")]
WantedPreset = Annotated[str, typer.Option(help="Preset that the checkpoint must have.")]
LabelledFolder = Annotated[
    Path, typer.Option("--data", help="LDCTIQA folder of labelled slices.", show_default=False)
]

# Options of score and score-archive.
SlicePaths = Annotated[
    list[Path],
    typer.Argument(help="DICOM, LDCTIQA .tif, .npy (HU) or .mha files, or folders of them."),
]
Resample = Annotated[bool, typer.Option("--resample", help="Resize slices that are not 512x512.")]
Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        help=f"{spelled(list(BACKENDS))}; repeatable, tried in this order. Default: all of them.",
    ),
]
Device = Annotated[
    int, typer.Option(help="GPU to use, by its number among the visible ones.", show_default=True)
]
TrustedKeys = Annotated[
    list[Path] | None,
    typer.Option("--trusted-key", help="Public key that must have signed the bundle; repeatable."),
]
NotBefore = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Refuse a bundle that was created before, as 2026-01-31."),
]
GraphPrecision = Annotated[
    str | None,
    typer.Option("--precision", help="Precision of the graph. Default: the most accurate."),
]
Figures = Annotated[
    bool,
    typer.Option(
        "--figures",
        help="Also measure noise, water-equivalent diameter, dose for the size, cut, air, fat and "
        "streaks of each slice.",
    ),
]
LimitsFile = Annotated[
    Path | None,
    typer.Option(
        help="Limits of your site for each protocol (TOML); a series beyond them is named."
    ),
]


@dataclass(frozen=True)
class SessionArguments:
    """Arguments of `Session`: which backends and precision, and whom to trust."""

    backends: Backends = None
    trusted_keys: TrustedKeys = None
    not_before: NotBefore = None
    precision: GraphPrecision = None


@dataclass(frozen=True)
class FullSessionArguments(SessionArguments):
    """Those, a GPU, and the choice of the fastest backend."""

    device: Device = 0
    fastest: Annotated[
        bool,
        typer.Option("--fastest", help="Time every backend that works here and use the fastest."),
    ] = False
    budget: Annotated[
        float | None,
        typer.Option(
            help="With --fastest: also try the bundle's other precisions, if no output has an "
            "error of more than this, such as 1e-2."
        ),
    ] = None


@dataclass(frozen=True)
class SiteFiles:
    """Files of a site."""

    site_map: Annotated[
        Path | None,
        typer.Option(
            "--site-map", help="Also give each score as your readers' grade; of `fit-site-map`."
        ),
    ] = None
    limits: LimitsFile = None

    @property
    def paths(self) -> list[Path]:
        """The files that are given."""
        return [path for path in (self.site_map, self.limits) if path is not None]

    def read(self, trusted_keys: Sequence[Path] | None) -> SiteRules:
        """Read the files, see `read_site_rules`."""
        from clinreadnet.scoring.site_rules import read_site_rules

        return read_site_rules(self.site_map, self.limits, trusted_keys)


# Options of score.
MapResolution = Annotated[
    str,
    typer.Option(
        metavar="patch|slice",
        help="Pixels of a map: 16x16, or as many as the slice has, for viewers such as OHIF.",
    ),
]


@dataclass(frozen=True)
class ScoreFiles:
    """Outputs of score beside the table."""

    csv: Annotated[
        Path | None,
        typer.Option(
            help="Also write the scores to this file (.csv). `-` is standard output, without the "
            "table."
        ),
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Also plot the scores along z and the worst and best slice (.png, .pdf, .svg)."
        ),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page to look at the slices, in one file (.html); `-` as in --csv."
        ),
    ] = None
    pdf: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page of each series to print and sign (.pdf); `-` as in --csv. "
            "Measures what --figures measures."
        ),
    ] = None
    challenge_output: Annotated[
        Path | None,
        typer.Option(help="Also write image-quality-scores.json into this folder."),
    ] = None
    sr: Annotated[
        Path | None,
        typer.Option(
            help="Also write a DICOM structured report of each series into this new folder."
        ),
    ] = None
    map: Annotated[
        Path | None,
        typer.Option(help="Also write a DICOM parametric map of each series into this new folder."),
    ] = None
    map_resolution: MapResolution = "patch"
    secondary_capture: Annotated[
        Path | None,
        typer.Option(
            help="Also write each slice under its map, as DICOM secondary captures, into this new "
            "folder."
        ),
    ] = None


KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="Leave damaged slices out, name them and exit with 1."),
]

# Options of agree and fit-site-map.
LabelFile = Annotated[
    Path, typer.Option("--labels", help="CSV file of your readers' grades.", show_default=False)
]
ScoreFile = Annotated[
    Path,
    typer.Option(
        "--scores", help="Scores of the slices: Parquet, CSV or JSON.", show_default=False
    ),
]
GradeScale = Annotated[
    str,
    typer.Option(metavar="BAD:EXCELLENT", help="Your worst and best grade, such as 1:5 or 5:1."),
]

# Options of train and ablate.
Data = Annotated[
    list[Path],
    typer.Option(help="LDCTIQA folder of labelled slices; repeatable.", show_default=False),
]
Preset = Annotated[str, typer.Option(help="Network: tiny, small or base.")]
Target = Annotated[
    str, typer.Option(help="Learn the score, or the noiseless quality of simulated slices.")
]
ValidationShare = Annotated[
    float, typer.Option(min=0, max=0.9, help="Share of the anatomies held out.")
]
Bf16 = Annotated[
    bool | None, typer.Option("--bf16/--no-bf16", help="Products in bfloat16. Default: on GPUs.")
]
LimitTime = Annotated[
    str | None,
    typer.Option(metavar="90s|30m|2h", help="Finish the schedule within this training time."),
]


@dataclass(frozen=True)
class StepOptions:
    """Settings of `TrainConfig` for the network and its steps."""

    preset: Preset = TrainConfig.preset
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = TrainConfig.epochs
    batch_size: Annotated[int, typer.Option(min=1, help="Slices per step.")] = (
        TrainConfig.batch_size
    )
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak learning rate.")] = (
        TrainConfig.learning_rate
    )
    crop: Annotated[int, typer.Option(help="Side of random crops: 256 (a quarter) or 512.")] = (
        TrainConfig.crop
    )
