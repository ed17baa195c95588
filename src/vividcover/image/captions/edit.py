"""Captions of a folder of photos, read and changed: NAME.txt beside NAME.png."""

from __future__ import annotations

import re
from pathlib import Path

from vividcover.errors import NotFoundError, ParameterError
from vividcover.files import write_text
from vividcover.image import sidecars
from vividcover.image.dataset import Dataset, caption_file
from vividcover.image.decode import is_picture

MOST = 4000  # characters of a caption


def read_captions(folder: Path) -> dict[str, str]:
    """Name of each photo in the folder → its caption, "" where it has none. Raises `NotFoundError`."""
    texts = {f: sidecars.caption_key(f) for f in _files(folder) if f.suffix.lower() in sidecars.CAPTIONS}
    found = {key: sidecars.read_caption(file)[0] for file, key in texts.items()}
    return {photo.name: found.get(sidecars.key(photo), "") for photo in _photos(folder)}


def write_caption(folder: Path, name: str, text: str) -> str:
    """Gives the photo `name` of the folder a caption, and returns it as it was written; "" takes it away.

    Raises `NotFoundError` for a photo that is not there, `ParameterError` for a caption that is too long.
    """
    photo = next((photo for photo in _photos(folder) if photo.name == name), None)
    if photo is None:
        raise NotFoundError(f"There is no photo {name!r} in {folder}.", "See its names with `read_captions`.")
    caption = sidecars.clean(text)
    if len(caption) > MOST:
        raise ParameterError(f"The caption of {name} has {len(caption)} characters.", f"Give at most {MOST}.")
    for other in _files(folder):
        if other.suffix.lower() in sidecars.CAPTIONS and sidecars.caption_key(other) == sidecars.key(photo):
            other.unlink()
    if caption:
        write_text(photo.with_suffix(".txt"), caption + "\n")
    return caption


def replace(folder: Path, find: str, by: str, *, regex: bool = False, whole_words: bool = False) -> dict[str, str]:
    """Replaces text in every caption of the folder; returns the captions that changed, by photo.

    Raises `ParameterError` for an empty or broken search; then nothing is changed.
    """
    if not find:
        raise ParameterError("There is nothing to look for.", "Give the words to replace.")
    pattern = find if regex else re.escape(find)
    try:
        compiled = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)" if whole_words else pattern)
        changed = {
            name: new
            for name, caption in read_captions(folder).items()
            if (new := sidecars.clean(compiled.sub(by if regex else lambda _: by, caption))) != caption
        }
    except (re.error, IndexError) as error:
        raise ParameterError(f"{find!r} with {by!r} is no regular expression: {error}.", "Correct it.") from error
    return {name: write_caption(folder, name, new) for name, new in changed.items()}


def refresh(dataset: Dataset) -> Dataset:
    """The data set with its captions as they now stand in its folder."""
    from dataclasses import replace as changed

    def caption(path: Path) -> str:
        return sidecars.read_caption(path)[0] if path.is_file() else ""

    return dataset.with_photos([changed(photo, caption=caption(caption_file(photo))) for photo in dataset.photos])


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder}.", "Prepare the photos first.")
    return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def _photos(folder: Path) -> list[Path]:
    pictures = [file for file in _files(folder) if is_picture(file)]
    keys = {sidecars.key(file) for file in pictures}
    return [file for file in pictures if sidecars.mask_key(file) not in keys]
