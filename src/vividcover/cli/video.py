"""`vividcover cover` and `vividcover portrait`: the videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vividcover.catalog.sonic import Sonic, SonicInput
from vividcover.cli.complete import image_names, voice_names
from vividcover.cli.console import Common, Cookies, Engine, Json, Quiet, perform
from vividcover.cli.options import takes_inputs
from vividcover.cover import CoverInput

Preview = Annotated[
    Path | None, typer.Option("--preview", help="Show early looks at a portrait by a network in this picture (.png).")
]


def _watched(session: Any, preview: Path | None) -> Any:
    """The session, whose early looks at a video are written into `preview`, each in the last one's place."""
    from vividcover import provenance
    from vividcover.calls import may_hold
    from vividcover.catalog.checks import fits
    from vividcover.errors import ParameterError
    from vividcover.files import aside

    if preview is not None and preview.is_dir():
        raise ParameterError(f"--preview {preview} is a folder.", "Name a picture in it, for example look.png.")
    fits(preview, ".png")
    may_hold(preview)

    def show(fraction: float, rgb: Any) -> None:
        assert preview is not None
        words = f"An early look at a video, {fraction:.0%} done."
        with aside(preview) as part:
            provenance.save_picture(rgb, part, format="png", quality=90, engine="neural", description=words)

    session.on_preview = show if preview else None
    return session


@takes_inputs(
    CoverInput, arguments={"song": "A file, a link to audio, or a page (YouTube and others)."},
    complete={"voice": voice_names, "image": image_names},
)  # fmt: skip
def cover(
    options: dict[str, Any],
    output: Annotated[Path, typer.Option("--output", "-o", help="The video to write.")] = Path("cover.mp4"),
    parts: Annotated[
        Path | None,
        typer.Option("--parts", help="Also write still, portrait, mix, vocals and instrumental into this folder."),
    ] = None,
    preview: Preview = None, engine: Engine = "auto", cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make a video of the person singing a song.

    Run it again after a stop and it continues; change one option and only what depends on it is made again.
    """
    from vividcover import sdk

    if "width" in options and "height" in options:
        options.setdefault("aspect_ratio", "custom")
    perform(lambda s: sdk.cover_in(_watched(s, preview), output, options, parts), Common(engine, json, quiet, cookies))


@takes_inputs(
    SonicInput, arguments={"image": "The picture.", "audio": "The voice, without music."},
    ignored=Sonic.ignores["classic"],
)  # fmt: skip
def portrait(
    options: dict[str, Any],
    output: Annotated[Path, typer.Option("--output", "-o", help="The video to write.")] = Path("portrait.mp4"),
    preview: Preview = None, engine: Engine = "auto", cookies: Cookies = None, json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make a picture sing (or speak) along with a voice."""
    from vividcover import sdk

    perform(
        lambda s: sdk.run_model(Sonic(), options, output, _watched(s, preview)), Common(engine, json, quiet, cookies)
    )
