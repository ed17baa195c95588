"""vividcover: photos of a person, recordings of their voice and a song in; a video of them singing it out."""

__version__ = "0.1.0"
