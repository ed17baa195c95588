"""What becomes of a melody before it is sung, and where a song is cut."""

from itertools import pairwise

import numpy as np
import pytest

from vividcover.voice.rvc import tuning
from vividcover.voice.rvc.pieces import PIECE, SEARCH, Song, Span, mirrored, opening, pieces, spans
from vividcover.voice.rvc.settings import NeuralConversion


def hertz(*notes):
    """MIDI notes → Hz; None is a pause."""
    return np.array([0 if n is None else 440 * 2 ** ((n - 69) / 12) for n in notes], np.float32)


def test_the_coarse_pitch_has_255_steps_and_1_for_nothing():
    steps = tuning.coarse(np.array([0, 30, 50, 200, 1100, 3000], np.float32))
    assert steps.tolist() == [1, 1, 1, 54, 255, 255]


def test_autotune_draws_to_the_nearest_note_by_its_strength():
    off = hertz(*[60.4] * 20, *[None] * 3, *[62.7] * 20)
    for strength, wanted in ((1, (60, 63)), (0.5, (60.2, 62.85)), (0, (60.4, 62.7))):
        tuned = tuning.autotuned(off, strength)
        assert tuned[10] == pytest.approx(hertz(wanted[0])[0], rel=1e-4)
        assert tuned[30] == pytest.approx(hertz(wanted[1])[0], rel=1e-4)
        assert not tuned[20:23].any()


def test_autotune_in_a_key_knows_its_seven_notes_only():
    tuned = tuning.autotuned(hertz(*[61.3] * 20), 1, (0, "major"))  # C sharp is not in C major
    assert tuned[5] == pytest.approx(hertz(62)[0], rel=1e-4)


@pytest.mark.parametrize(
    ("tonic", "mode", "name"), [(0, "major", "C major"), (9, "minor", "A minor"), (3, "major", "Eb major")]
)
def test_the_key_is_heard_from_how_long_notes_last(tonic, mode, name):
    weights = [6, 2, 4, 2, 5, 2, 2]
    melody = [60 + tonic + step for step, weight in zip(tuning.SCALES[mode], weights) for _ in range(weight)]
    assert tuning.key_name(tuning.key_of(hertz(*melody))) == name


def test_lines_between_the_notes_reach_over_pauses_and_to_both_ends():
    filled = tuning.interpolated(np.array([0, 100, 0, 0, 130, 0], np.float32))
    assert filled.tolist() == [100, 100, 110, 120, 130, 130]
    assert not tuning.interpolated(np.zeros(4, np.float32)).any()


def test_the_median_takes_out_a_slip_and_leaves_voicing():
    track = hertz(*[60] * 5, 72, *[60] * 5, None, None, *[60] * 4)
    smooth = tuning.median(track, 3)
    assert smooth[5] == pytest.approx(hertz(60)[0]) and ((smooth > 0) == (track > 0)).all()
    assert (tuning.median(track, 2) == track).all()


def test_auto_without_a_known_range_leaves_the_octave():
    semitones, why = tuning.choose_pitch(NeuralConversion(semitones=2), hertz(60, 60), {})
    assert semitones == 2 and "does not say" in why


def test_sound_is_found_with_its_tails_and_the_rest_is_silence():
    power = np.full(1000, 1e-8, np.float32)
    power[200:300] = power[320:400] = power[700:750] = 1e-3
    found = spans(power, -60)
    assert [(span.start, span.stop) for span in found] == [(174, 426), (674, 776)]
    assert spans(power, -20) == [] and spans(np.zeros(50, np.float32), -200) == [Span(0, 50)]


def test_a_span_fades_in_and_out_but_not_at_the_songs_own_ends():
    gain = opening(Span(100, 200), 100, 200, 1000, 480)
    assert gain is not None and gain[0] < 1e-3 and gain[-1] < 1e-3 and gain[5 * 480 : -5 * 480].min() == 1
    assert opening(Span(100, 200), 110, 150, 1000, 480) is None
    assert opening(Span(0, 1000), 0, 1000, 1000, 480) is None


def test_pieces_cover_a_span_and_are_cut_where_it_is_quiet():
    power = np.ones(5000, np.float32)
    quiet = [1100, 2050, 3100]
    for place in quiet:
        power[place - 10 : place + 10] = 0
    cut = list(pieces(Span(0, 5000), power))
    assert cut[0].start == 0 and cut[-1].stop == 5000
    assert all(a.stop == b.start for a, b in pairwise(cut))
    assert all(abs(piece.stop - place) < 15 for piece, place in zip(cut, quiet))
    assert max(piece.frames for piece in cut) <= PIECE + 2 * SEARCH


def test_a_song_is_mirrored_at_its_ends():
    assert mirrored(np.arange(-3, 8), 5).tolist() == [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]


def test_the_song_is_filtered_the_same_in_blocks_as_whole(tmp_path, monkeypatch):
    from vividcover.song.pcm import PcmReader, write_pcm
    from vividcover.voice.rvc import pieces as module
    from vividcover.workspace import Silent

    noise = np.random.default_rng(0).standard_normal((1, 16_000 * 5)).astype(np.float32)
    write_pcm(tmp_path / "in.wav", noise, 16_000)
    monkeypatch.setattr(module, "BLOCK", 16_000)
    with PcmReader(tmp_path / "in.wav") as reader, Song(reader, tmp_path / "16k", Silent()) as song:
        whole = module.high_passed(noise[0])
        assert song.length == 80_000 and np.abs(song.samples - whole).max() < 1e-5
        assert song.read(-5, 3).tolist() == song.samples[[5, 4, 3]].tolist()
    assert not (tmp_path / "16k").exists()
