"""`vividcover demo`: the whole job on the sample singer and song that come with the program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vividcover.cli.console import Common, Json, Quiet, perform
from vividcover.errors import NotFoundError

PROMPT = "VIVI on stage performing, blue and magenta light, smoke, crowd"
CONSENT = "Vivi does not exist: her photographs are renderings and her voice is synthetic (sample/NOTICE.md, CC0)."
SEED = 7


def sample_folder() -> Path:
    """`sample/`: beside the sources in a checkout, inside the package in a wheel."""
    import vividcover

    package = Path(vividcover.__file__).parent
    for folder in (package.parents[1] / "sample", package / "sample"):
        if (folder / "song" / "song.ogg").is_file():
            return folder
    raise NotFoundError("The sample set is not here.", "Run the demo from a checkout, or reinstall vividcover.")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The video to write.")] = Path("demo/cover.mp4"),
    seconds: Annotated[float | None, typer.Option(min=2, help="Only the first seconds of the song.")] = None,
    size: Annotated[int, typer.Option(min=256, max=1440, help="Width and height in px.")] = 768,
    json: Json = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train the sample singer and make her cover of the sample song."""
    perform(lambda s: _demo(s, output, seconds, size), Common("classic", json, quiet))


def _demo(session: Any, output: Path, seconds: float | None, size: int) -> Any:
    from vividcover import sdk, weights

    sample = sample_folder()
    weights.pull(folder=session.settings.weights, reporter=session.workspace)
    clips = sorted(str(p) for p in (sample / "voice").glob("*.flac"))
    sdk.train_voice_in(session, clips, "vivi", CONSENT)
    sdk.train_image_in(session, sample / "photos", "vivi", CONSENT, {"trigger_word": "VIVI"})
    song = sample / "song" / "song.ogg"
    if seconds:
        song = _beginning(session, song, seconds)
    values = {
        "song": str(song), "voice": "vivi", "image": "vivi", "prompt": PROMPT, "aspect_ratio": "custom",
        "width": size, "height": size, "seed": SEED,
    }  # fmt: skip
    return sdk.cover_in(session, output, values, output.parent / "parts")


def _beginning(session: Any, song: Path, seconds: float) -> Path:
    """The first seconds of a song, as a stage."""
    from vividcover.song import codec, pcm

    def compute(stage: Any) -> None:
        codec.decode(song, stage.folder / "whole.wav", reporter=stage)
        with pcm.PcmReader(stage.folder / "whole.wav") as whole:
            pcm.write_pcm(
                stage.folder / "song.wav", whole.read(0, min(round(seconds * whole.rate), whole.frames)), whole.rate
            )
        (stage.folder / "whole.wav").unlink()

    made = session.workspace.stage(
        "demo/beginning", version=1, inputs={"song": song}, params={"seconds": seconds}, compute=compute
    )
    return Path(made.path("song.wav"))
