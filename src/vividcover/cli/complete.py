"""Names for the shell to complete: models of the catalog, trained voices and image models."""

from __future__ import annotations

from vividcover.errors import VividCoverError


def model_names(begun: str) -> list[str]:
    """Models of the catalog."""
    from vividcover.cover import models

    return [name for name in models() if name.startswith(begun)]


def voice_names(begun: str) -> list[str]:
    """Trained voices on the shelf. (A shell also completes paths where there is no such name.)"""
    return _shelf("voices", ".zip", begun)


def image_names(begun: str) -> list[str]:
    """Trained image models on the shelf."""
    return _shelf("images", ".tar", begun)


def _shelf(folder: str, suffix: str, begun: str) -> list[str]:
    """By their files' names alone: nobody waits at a Tab for models to be opened."""
    from vividcover.settings import settings

    try:
        shelf = settings().home / folder
    except VividCoverError:  # a wrong setting is said when the command runs
        return []
    return sorted(path.stem for path in shelf.glob(f"*{suffix}") if path.name.startswith(begun))
