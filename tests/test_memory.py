"""A longer song takes longer and needs no more memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from vividcover.song import codec, pcm

SECONDS, TIMES = 8.0, 4  # of the shorter song, and how often the longer one repeats it
ALLOWED = 8.0  # MB that the 24 s more may add; their samples are 8 MB and their spectra 34 MB, as float32
PROGRAM = """
import json, resource, sys
from pathlib import Path
from vividcover.song import separate
from vividcover.voice.classic import convert

separate.CORE, convert.BLOCK, convert.SEARCH = 160, 250, 75  # a quarter of what they are: many blocks in little time
convert.LISTEN = convert.TRIAL = 6.0  # s of singing that are listened to at most: reached by the shorter song already
song, voice, folder = map(Path, sys.argv[1:])
parts = separate.separate(song, folder)
convert.convert(parts.vocals, voice, folder / "sung.wav", convert.Conversion())
who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
print(json.dumps([resource.getrusage(them).ru_maxrss / 1024 for them in who]))
"""


def test_separation_and_conversion_need_no_more_memory_for_a_longer_song(
    sample: Path, trained: Path, tmp_path: Path
) -> None:
    codec.decode(sample / "song" / "song.ogg", tmp_path / "whole.wav")
    with pcm.PcmReader(tmp_path / "whole.wav") as reader:
        verse = reader.read(0, int(SECONDS * pcm.RATE))
    peaks = []
    for times in (1, TIMES):
        with pcm.PcmWriter(tmp_path / f"{times}.wav") as song:
            for _ in range(times):
                song.write(verse)
        peaks.append(_peaks(tmp_path / f"{times}.wav", next(trained.glob("voices/**/*.zip")), tmp_path / str(times)))
    (own, child), (own_longer, child_longer) = peaks
    assert own_longer < own + ALLOWED, f"the program itself, MB: {own} and {own_longer}"
    assert child_longer < child + ALLOWED, f"the largest child, MB: {child} and {child_longer}"


def _peaks(song: Path, voice: Path, folder: Path) -> list[float]:
    """Most memory in MB that the program itself and its largest child ever had."""
    command = [sys.executable, "-c", PROGRAM, str(song), str(voice), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peaks: list[float] = json.loads(done.stdout)
    return peaks
