"""Key change."""

from __future__ import annotations

from pathlib import Path

from vividcover.workspace import Reporter


def shift_pitch(
    pcm_in: Path, pcm_out: Path, semitones: float, *, preserve_formants: bool = False, reporter: Reporter | None = None
) -> None:
    """Changes the key."""
    raise NotImplementedError
