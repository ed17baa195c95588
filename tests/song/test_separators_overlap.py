"""Overlap-add: whatever the cutting, a net that changes nothing gives the song back; memory and waiting are bounded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vividcover.errors import AudioError, Canceled
from vividcover.song.pcm import PcmWriter, read_pcm, write_pcm
from vividcover.song.separators.contract import NetSeparator
from vividcover.song.separators.overlap import Chunks, Mirrored, Part, Scaled, levels, overlap_add
from vividcover.workspace import Silent

CUTTINGS = {
    "hann": Chunks(100, 50),
    "side by side": Chunks(100, 60, "flat", margin=20, lead=20),
    "demucs": Chunks(100, 75, "triangle", every=True, last="centred", lead=13, batch=3),
    "roformer": Chunks(
        100, 25, "linear", fade=10, flat_ends=True, every=True, last="reflect", batch=4, lead=75, trail=75
    ),
}


class Song:
    """A `Source` in memory."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples, self.frames = samples, samples.shape[1]

    def read(self, start: int, count: int) -> np.ndarray:
        padded = np.pad(self.samples, ((0, 0), (max(0, -start), max(0, start + count - self.frames))))
        return padded[:, max(0, start) : max(0, start) + count].copy()


class Same:
    """A net that answers its input, and twice its input; remembers what it was given."""

    stems: tuple[str, ...] = ("one", "two")
    rate = 44_100
    level = "none"
    mirror = 0

    def __init__(self, chunks: Chunks, seconds: float = 0.0) -> None:
        self.chunks, self.seconds, self.heard, self.stopped = chunks, seconds, list[np.ndarray](), 0

    def __call__(self, mixtures: np.ndarray) -> np.ndarray:
        self.heard.append(mixtures)
        time.sleep(self.seconds)
        return np.stack([mixtures, 2 * mixtures], axis=1)

    def stop(self) -> None:
        self.stopped += 1


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((2, count)).astype(np.float32)


@pytest.mark.parametrize("frames", [1, 5, 99, 100, 101, 1000, 1234])
@pytest.mark.parametrize("cutting", CUTTINGS)
def test_a_net_that_changes_nothing_gives_the_song_back(cutting: str, frames: int) -> None:
    song, chunks = Song(noise(frames)), CUTTINGS[cutting]
    source = Mirrored(song, 75) if chunks.trail else song
    found = np.concatenate(list(overlap_add(Same(chunks), source, chunks)), axis=-1)
    assert found.shape == (2, 2, frames) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], song.samples, atol=1e-5)
    np.testing.assert_allclose(found[1], 2 * song.samples, atol=1e-5)


def test_no_chunk_is_computed_that_adds_nothing() -> None:
    assert Chunks(100, 50).starts(150) == [0, 50]
    assert Chunks(100, 50, every=True).starts(150) == [0, 50, 100]
    assert Chunks(100, 60, "flat", margin=20, lead=20).starts(120) == [-20, 40]


def test_chunks_that_would_leave_gaps_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="gaps"):
        Chunks(100, 70, margin=20)


def test_the_last_chunk_is_filled_as_the_published_programs_do() -> None:
    song = Song(noise(170))
    for last, expected in (
        ("zeros", 0.0),
        ("centred", song.samples[:, 105:]),
        ("reflect", song.samples[:, 168:138:-1]),
    ):
        net = Same(Chunks(100, 100, "flat", last=last))  # type: ignore[arg-type]
        list(overlap_add(net, song, net.chunks))
        seen = net.heard[1][0]
        if last == "centred":  # 70 samples in the middle of 100: 15 before them, 15 zeros after
            np.testing.assert_array_equal(seen[:, 20:85], expected)
            assert (seen[:, 85:] == 0).all() and (seen[:, :15] == song.samples[:, 85:100]).all()
        else:
            np.testing.assert_array_equal(seen[:, :70], song.samples[:, 100:])
            np.testing.assert_array_equal(seen[:, 70:], np.broadcast_to(expected, (2, 30)))


def test_a_mirrored_song_is_numpys_reflection_wherever_it_is_read() -> None:
    song = Song(noise(50))
    mirrored = Mirrored(song, 20)
    whole = np.pad(np.pad(song.samples, ((0, 0), (20, 20)), mode="reflect"), ((0, 0), (50, 150)))
    for start in range(-30, 60, 7):
        for count in (1, 5, 30, 90):
            np.testing.assert_array_equal(mirrored.read(start, count), whole[:, start + 70 : start + 70 + count])


def test_a_part_is_silent_outside_and_a_scaled_song_too() -> None:
    song = Song(np.ones((2, 100), np.float32))
    part = Part(song, 40, 60)
    assert part.frames == 20
    np.testing.assert_array_equal(part.read(-5, 30)[0], [0] * 5 + [1] * 20 + [0] * 5)
    scaled = Scaled(song, offset=3.0, scale=2.0)
    np.testing.assert_array_equal(scaled.read(-2, 104)[1], [0] * 2 + [-1] * 100 + [0] * 2)


def test_levels_are_those_of_the_whole_song() -> None:
    samples = noise(600_000) * np.float32(0.1) + np.float32(0.02)
    found, middle = levels(Song(samples)), samples.mean(axis=0)
    assert found.peak == pytest.approx(np.abs(samples).max())
    assert found.mean == pytest.approx(middle.mean(), abs=1e-6)
    assert found.deviation == pytest.approx(middle.std(ddof=1), rel=1e-5)


# as a separator -------------------------------------------------------------------------------------------------------


def test_stems_are_named_as_asked_and_the_rest_completes_the_song(tmp_path: Path) -> None:
    song = write_pcm(tmp_path / "song.wav", noise(1000))
    net = Same(Chunks(100, 50))
    separator = NetSeparator("same", net, {"two": "vocals"}, "instrumental", {"two": 0.25})
    assert separator.stems == ("vocals", "instrumental")
    files = separator.separate(song, tmp_path / "out")
    vocals, rest = read_pcm(files["vocals"])[0], read_pcm(files["instrumental"])[0]
    np.testing.assert_allclose(vocals, 0.5 * noise(1000), atol=1e-5)
    np.testing.assert_array_equal(vocals + rest, read_pcm(song)[0])


@pytest.mark.parametrize("level", ["peak", "standard"])
def test_a_net_hears_the_song_at_the_level_that_it_wants(tmp_path: Path, level: str) -> None:
    song = write_pcm(tmp_path / "song.wav", 0.1 * noise(1000) + 0.05)
    net = Same(Chunks(1000, 1000, "flat"))
    net.level = level
    files = NetSeparator("same", net, ["one"]).separate(song, tmp_path / "out")
    heard = net.heard[0][0]
    if level == "peak":
        assert np.abs(heard).max() == pytest.approx(1.0)
    else:
        assert heard.mean() == pytest.approx(0, abs=1e-5) and heard.mean(axis=0).std(ddof=1) == pytest.approx(
            1, rel=1e-4
        )
    np.testing.assert_allclose(read_pcm(files["one"])[0], read_pcm(song)[0], atol=1e-6)


def test_another_rate_is_refused(tmp_path: Path) -> None:
    song = write_pcm(tmp_path / "song.wav", noise(1000), 48_000)
    with pytest.raises(AudioError, match="48000"):
        NetSeparator("same", Same(Chunks(100, 50))).separate(song, tmp_path / "out")


class Impatient(Silent):
    def __init__(self, after: float) -> None:
        super().__init__()
        self.until = time.monotonic() + after

    def check(self) -> None:
        if time.monotonic() > self.until:
            raise Canceled()


def test_canceling_does_not_wait_for_a_slow_net(tmp_path: Path) -> None:
    song = write_pcm(tmp_path / "song.wav", noise(1000))
    net, began = Same(Chunks(100, 50), seconds=5.0), time.monotonic()
    with pytest.raises(Canceled):
        NetSeparator("same", net).separate(song, tmp_path / "out", reporter=Impatient(0.2))
    assert time.monotonic() - began < 1.0 and net.stopped == 1


def test_an_error_of_the_net_is_the_callers(tmp_path: Path) -> None:
    class Broken(Same):
        def __call__(self, mixtures: np.ndarray) -> np.ndarray:
            raise AudioError("The net broke.")

    song = write_pcm(tmp_path / "song.wav", noise(1000))
    with pytest.raises(AudioError, match="broke"):
        NetSeparator("broken", Broken(Chunks(100, 50))).separate(song, tmp_path / "out")


MEASURE = """
import json, resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:5]
import tiny_mdx
from vividcover.song.separators.mdx import MdxConfig, MdxNet, MdxSeparator
net = MdxNet(tiny_mdx.make(Path(sys.argv[2]) / "tiny.onnx"), MdxConfig(**tiny_mdx.SMALL), threads=1)
MdxSeparator("tiny", net, "vocals", "rest", sys.argv[5]).separate(Path(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""


@pytest.mark.parametrize("mode", ["overlap", "parity"])
def test_memory_does_not_grow_with_the_song(tmp_path: Path, mode: str) -> None:
    peaks = []
    for seconds in (20, 120):  # 7 MB and 42 MB of samples
        with PcmWriter(tmp_path / f"{seconds}.wav") as song:
            for _ in range(seconds):
                song.write(0.1 * noise(44_100))
        oracles = str(Path(__file__).parents[1] / "oracles")
        command = [sys.executable, "-c", MEASURE, str(song.path), str(tmp_path), oracles, oracles, mode]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(json.loads(done.stdout))
    assert peaks[1] < peaks[0] + 6, peaks
