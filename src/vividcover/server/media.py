"""What a file really is, whatever it is called: looked at when a run is asked for, not when it has begun.

    check(path, "photo.jpg", IMAGE)        # raises InputError when it is no picture

A check here answers in milliseconds and reads headers only; whether every frame can be decoded, the run finds out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vividcover import archives, trained
from vividcover.errors import AudioError, ImageError, InputError, VividCoverError

Kind = Literal["image", "sound", "photos", "recordings", "voice model", "image model", "anything"]
HEAD = 262  # bytes that tell the kinds of file apart
DECODED = 30_000_000  # pixels of a picture that is decoded to see whether it is whole; of a larger one, its checksums

# What the catalog's fields take, by name. A field that is not here takes any file with something in it.
FIELDS: dict[str, Kind] = {
    "image": "image", "mask": "image", "still": "image", "image_prompt": "image", "control_image": "image",
    "preprocessed_image": "image", "lora_mask": "image", "extra_lora_mask": "image",
    "audio": "sound", "song": "sound", "song_input": "sound", "input_audio": "sound",
    "vocals_stem": "sound", "instrumental_stem": "sound", "backup_vocals_stem": "sound", "sample_recording": "sound",
    "dataset_zip": "recordings", "youtube_url": "recordings", "input_images": "photos", "file_data": "photos",
    "custom_rvc_model_download_url": "voice model", "blend_voice": "voice model", "replicate_weights": "image model",
}  # fmt: skip


def guess(head: bytes, name: str = "", told: str = "") -> str:
    """The content type of a file: by its first bytes, else as its sender or its name says."""
    import mimetypes

    import filetype

    kind = filetype.guess(head[:HEAD]) if head else None
    by_name = mimetypes.guess_type(name)[0]
    if kind is not None:
        # a container says little: an .mp4 may be sound alone, a .docx is a zip
        return by_name if by_name and by_name.partition("/")[0] in ("audio", "video") else str(kind.mime)
    told = told.partition(";")[0].strip().lower()
    if told and told != "application/octet-stream" and len(told) <= 100 and "/" in told:
        return told
    return by_name or "application/octet-stream"


def check(path: Path, name: str, kind: Kind) -> None:
    """Raises `InputError` (or one of its kinds) when the file cannot be what it is given for."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise InputError(f"{name} is empty (0 bytes).", "The upload or download failed; send it again.")
    if kind == "image":
        _picture(path, name)
    elif kind == "sound":
        _sound(path, name)
    elif kind == "photos":
        if archives.looks_like_zip(head):
            _holds(path, name, "image")
        else:
            _picture(path, name, "a zip of photos")
    elif kind == "recordings":
        if archives.looks_like_zip(head):
            _holds(path, name, "audio")
        else:
            _sound(path, name, "a zip of recordings, or one recording")
    elif kind in ("voice model", "image model"):
        which: trained.Kind = "voice" if kind == "voice model" else "image"
        try:
            trained.read_card(path, which, f"Give the file that a training of a {which} model made.")
        except InputError as error:
            raise InputError(error.message.replace(path.name, name), error.hint) from None


def _picture(path: Path, name: str, wanted: str = "a picture") -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (64, 64))  # a JPEG is read whole, but small
            picture.load() if picture.size[0] * picture.size[1] <= DECODED else picture.verify()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = "its picture is damaged or absurdly large" if not isinstance(error, UnidentifiedImageError) else ""
        raise ImageError(f"{name} is not {wanted}: {why or _looks_like(path)}.", "Give a JPEG, PNG or WebP.") from None


def _sound(path: Path, name: str, wanted: str = "audio") -> None:
    import av

    try:
        with av.open(str(path)) as opened:
            if opened.streams.audio:
                return
            why = "there is no sound in it"
    except (av.FFmpegError, OSError, ValueError):
        why = _looks_like(path)
    raise AudioError(f"{name} is not {wanted}: {why}.", "Give WAV, FLAC, MP3, OGG, M4A, or a video with sound.")


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD)
    found = guess(head)
    if found != "application/octet-stream":
        return f"it looks like {found}"
    return "it looks like text" if b"\0" not in head and head.isascii() else "it is of no kind that is known"


def _holds(path: Path, name: str, category: Literal["image", "audio"]) -> None:
    """Raises `ArchiveError` for an unsafe zip, or one in which nothing of the category is."""
    try:
        heads = archives.inspect(path, name, head=HEAD)
    except VividCoverError as error:
        raise type(error)(error.message.replace(path.name, name), error.hint) from None
    kinds = {inside: guess(head, inside).partition("/")[0] for inside, head in heads.items()}
    wanted = ("image",) if category == "image" else ("audio", "video")
    if any(kind in wanted for kind in kinds.values()):
        return
    nested = [i for i, head in heads.items() if archives.looks_like_zip(head) or i.lower().endswith(NESTED)]
    what = "photos" if category == "image" else "recordings"
    why = f"holds another archive, “{nested[0][:80]}”, and no {what}" if nested else f"holds no {what}"
    raise InputError(f"{name} {why}.", f"Put the {what} themselves into the zip.")


NESTED = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")
