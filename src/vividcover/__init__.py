"""vividcover: photos of a person, recordings of their voice and a song in; a video of them singing it out.

    import vividcover

    voice = vividcover.train_voice("recordings/", name="vivi", consent="This is my own voice.")
    image = vividcover.train_image("photos/", name="vivi", consent="These are photos of me.")
    cover = vividcover.make_cover("song.mp3", voice="vivi", image="vivi", output="cover.mp4")

The functions live in `sdk.py` and are loaded when first used, so importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vividcover.errors import VividCoverError
    from vividcover.sdk import (
        Made,
        caption_photos,
        compare_trainings,
        convert_song,
        draw_batch,
        examine_photos,
        examine_recordings,
        generate_image,
        make_cover,
        make_dataset,
        make_portrait,
        merge_loras,
        run,
        separate_song,
        train_image,
        train_voice,
    )

__all__ = [
    "Made", "VividCoverError", "__version__", "caption_photos", "compare_trainings", "convert_song", "draw_batch",
    "examine_photos", "examine_recordings", "generate_image", "make_cover", "make_dataset", "make_portrait",
    "merge_loras", "run", "separate_song", "train_image", "train_voice",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vividcover' has no attribute {name!r}")
    from importlib import import_module

    home = "vividcover.errors" if name == "VividCoverError" else "vividcover.sdk"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
