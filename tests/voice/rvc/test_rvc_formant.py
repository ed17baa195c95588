"""Formant shift moves the resonances and leaves melody, length and silence alone."""

import numpy as np
import pytest
from scipy import signal as dsp

from vividcover.voice.rvc.formant import FormantShift

RATE, F0 = 48_000, 110.0


def vowel(seconds=1.5, formant=1200.0):
    """A buzz at F0 with one resonance."""
    time = np.arange(round(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * F0 * k * time) for k in range(1, 100))
    pole = np.exp(-np.pi * 150 / RATE) * np.exp(2j * np.pi * formant / RATE)
    shaped = dsp.lfilter([1], np.real(np.poly([pole, pole.conjugate()])), buzz)
    return (0.3 * shaped / np.abs(shaped).max()).astype(np.float32)


def shifted(samples, semitones, blocks=(1000,)):
    f0 = np.full(len(samples) // 480, F0, np.float32)
    shift, out, start = FormantShift(RATE, semitones, f0), [], 0
    while start < len(samples):
        size = blocks[len(out) % len(blocks)]
        out.append(shift.push(samples[start : start + size]))
        start += size
    return np.concatenate([*out, shift.finish()])


def spectrum(samples):
    return np.abs(np.fft.rfft(samples[RATE // 4 : RATE // 4 + RATE] * np.hanning(RATE)))  # 1 Hz a bin


def resonance(samples):
    """Hz around which the harmonics are strong."""
    harmonics = np.arange(1, 40) * round(F0)
    power = spectrum(samples)[harmonics] ** 2
    return float(harmonics[power.argmax()])


@pytest.mark.parametrize(("semitones", "wanted"), [(5, 1600), (-5, 900)])
def test_the_resonance_moves_by_the_semitones(semitones, wanted):
    assert resonance(vowel()) == pytest.approx(1200, abs=F0)
    assert resonance(shifted(vowel(), semitones)) == pytest.approx(wanted, abs=1.2 * F0)


def test_the_melody_stays():
    power = spectrum(shifted(vowel(), 4))
    harmonics = np.arange(1, 30) * round(F0)
    assert power[harmonics].min() > 20 * power[harmonics + round(F0) // 2].max()


def test_as_many_samples_come_out_whatever_the_blocks_and_the_same_ones():
    samples = vowel(0.8)[:-123]
    whole, bits = shifted(samples, 3, (len(samples),)), shifted(samples, 3, (1, 777, 5000, 20))
    assert len(whole) == len(bits) == len(samples)
    np.testing.assert_allclose(whole, bits, atol=1e-7)


def test_no_shift_changes_nothing_and_silence_stays_silence():
    samples = vowel(0.3)
    assert (shifted(samples, 0) == samples).all()
    assert not shifted(np.zeros(9000, np.float32), 5).any()


def test_a_shift_there_and_back_is_near_what_it_was():
    there_and_back = shifted(shifted(vowel(), 3), -3)
    middle = slice(RATE // 4, RATE)
    error = np.sqrt(np.mean((there_and_back - vowel())[middle] ** 2) / np.mean(vowel()[middle] ** 2))
    assert error < 0.25
