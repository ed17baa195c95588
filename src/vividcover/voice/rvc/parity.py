"""RVC's own way of converting (the 2023 line, which the published models run on), step by step, for comparison.

Kept as it is there: the whole signal mirrored by a second at both ends; beyond 41 s cut at quiet places near every
38 s; each piece through everything by itself and its margins thrown away, without a fade; the vocal cords' phase begins
anew in every piece; loudness read between stretched half seconds; the peak held at 0.99; 16 bits. A piece loses the
frames that ContentVec does not give (20 ms), so the result is that much shorter than the song.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vividcover.errors import AudioError
from vividcover.voice.rvc import loudness, tuning
from vividcover.voice.rvc.pieces import HOP, RATE
from vividcover.voice.rvc.settings import NeuralConversion
from vividcover.voice.rvc.singing import Dice, Nets, drawn
from vividcover.voice.rvc.vocoder import sine_source

PAD, QUERY, CENTRE, MOST = RATE, 6 * RATE, 38 * RATE, 41 * RATE  # samples, as RVC chooses them for float32
LOUDEST = 0.99
FULL_SCALE = 32_768

Array = NDArray[np.float32]


def padded(audio: NDArray[np.floating]) -> NDArray[np.floating]:
    """The song [N] as RVC tracks its pitch: mirrored by PAD at both ends."""
    if len(audio) < 2:
        raise AudioError("The song is one sample long.", "Give a song that is longer.")
    return np.pad(audio, PAD, mode="reflect")


@torch.inference_mode()
def sing(nets: Nets, audio: NDArray[np.floating], f0: Array | None, settings: NeuralConversion) -> Array:
    """16-bit samples, as floats, at the voice's rate. audio [N] at 16 kHz, high-passed; f0 of `padded(audio)` in Hz as
    it is to be sung, None for a voice that follows no pitch."""
    whole, rate = padded(audio), nets.voice.config.rate
    trim = PAD // RATE * rate
    parts, start = [np.zeros(0, np.float32)], 0
    for cut in [*cuts(audio), None]:
        stop = len(whole) if cut is None else cut + 2 * PAD + HOP
        track = None if f0 is None else f0[start // HOP : len(whole) // HOP if cut is None else (cut + 2 * PAD) // HOP]
        parts.append(_piece(nets, whole[start:stop], track, settings, start // HOP)[trim:-trim])
        start = cut or 0
    sung = loudness.levelled(audio, RATE, np.concatenate(parts), rate, settings.rms_mix_rate)
    loudest = float(np.abs(sung).max(initial=0.0)) / LOUDEST
    return np.asarray(np.trunc(sung * (FULL_SCALE / max(loudest, 1.0))) / FULL_SCALE, np.float32)


def cuts(audio: NDArray[np.floating]) -> list[int]:
    """Samples at which a long song is cut: the quietest place, over 10 ms, within QUERY of every CENTRE."""
    around = np.pad(audio, HOP // 2, mode="reflect") if len(audio) > HOP else np.asarray(audio)
    if len(around) <= MOST:
        return []
    level = np.zeros(len(audio))
    for shift in range(HOP):
        level += np.abs(around[shift : shift - HOP])
    places = (t - QUERY + int(np.argmin(level[t - QUERY : t + QUERY])) for t in range(CENTRE, len(audio), CENTRE))
    return [place // HOP * HOP for place in places]


def _piece(
    nets: Nets, wave: NDArray[np.floating], f0: Array | None, settings: NeuralConversion, first: int
) -> Array:  # fmt: skip
    """A piece with its margins, its first frame being number `first` of the padded song."""
    config, device = nets.voice.config, nets.device
    heard = nets.content.features(torch.from_numpy(wave.astype(np.float32))[None], version=nets.version)
    frames = min(len(wave) // HOP, 2 * heard.shape[1], len(f0) if f0 is not None else len(wave))
    track = None if f0 is None else torch.from_numpy(f0[:frames])[None]
    features = drawn(heard, nets.index, settings, None if track is None else (track > 0).to(device))[:, :frames]
    steps = None if f0 is None else torch.from_numpy(tuning.coarse(f0[:frames]))[None].to(device)
    g = nets.voice.voice(torch.tensor([settings.speaker], device=device))
    noise = Dice(settings.seed, 2)(first, first + frames, config.inter)[None].to(device)
    z = nets.voice.encode(features, steps, g, noise if settings.noise_scale else None, settings.noise_scale)
    source = None
    if track is not None:
        breath = Dice(settings.seed, 3)(first, first + frames, config.hop).T.reshape(1, -1)
        breath = breath if settings.noise_scale else torch.zeros_like(breath)
        source = sine_source(track, config.rate, config.hop, breath).to(device)
    audio: Array = nets.decoder(z, g, source)[0, 0].cpu().numpy()
    return audio
