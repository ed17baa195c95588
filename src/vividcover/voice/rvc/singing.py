"""A span of the song in the voice: features → latents → audio, two seconds at a time.

    performance = Performance(stage, song, melody, settings)
    for audio in performance.sing(span, power): …                    # [n*hop] each, in order

The features and latents of a piece (`pieces.py`) are computed with a second of the song around it and faded into its
neighbours' over EDGE frames, so that the vocoder reads one unbroken latent. Everything random follows from the seed and
the frame's number, and the vocal cords' phase runs through the whole song; so the vocoder's blocks, with MARGIN frames
around each, give the same samples whatever their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vividcover.voice.rvc import tuning
from vividcover.voice.rvc.decoder import Decoder
from vividcover.voice.rvc.hubert import ContentVec
from vividcover.voice.rvc.index import Index
from vividcover.voice.rvc.network import Synthesizer
from vividcover.voice.rvc.pieces import CONTEXT, HOP, Song, Span, mirrored, opening, pieces
from vividcover.voice.rvc.settings import NeuralConversion
from vividcover.voice.rvc.vocoder import MARGIN, phases, sine_source

EDGE = 8  # frames before and after a cut over which two pieces' latents are faded
BLOCK, GPU_BLOCK = 200, 1500  # frames that the vocoder makes at a time
DICE = 64  # frames whose random numbers are drawn together
AROUND = MARGIN + EDGE  # frames beyond a piece whose latents are kept
MIXER = 0x9E3779B97F4A7C15  # odd, spreads numbers that follow each other over 64 bits (Knuth's golden ratio)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Nets:
    """What sings: loaded once, used for any number of songs."""

    voice: Synthesizer
    decoder: Decoder
    content: ContentVec
    index: Index | None
    device: torch.device

    @property
    def version(self) -> str:
        return str(self.voice.config.version)


@dataclass(frozen=True)
class Melody:
    """f0 [T] in Hz as it is to be sung (0 = unvoiced) and where the singer's own voice sounded [T]."""

    f0: Array
    voiced: NDArray[np.bool_]


class Dice:
    """Standard normal numbers that follow from the seed and the frame, in whatever pieces they are asked for."""

    def __init__(self, seed: int, kind: int) -> None:
        self.seed, self.kind = seed, kind

    def __call__(self, start: int, stop: int, per_frame: int) -> Tensor:
        """[per_frame, stop - start], float32."""
        first, last = start // DICE, -(-stop // DICE)
        cups = [self._cup(number, per_frame) for number in range(first, last)]
        return torch.cat(cups, 1)[:, start - first * DICE : stop - first * DICE]

    def _cup(self, number: int, per_frame: int) -> Tensor:
        mixed = ((self.seed * 4 + self.kind + 1) * MIXER + number * 0x2545F4914F6CDD1D) % 2**64
        random = torch.Generator().manual_seed(mixed >> 1)
        return torch.randn(DICE, per_frame, generator=random).T


class Performance:
    """One song in one voice."""

    def __init__(
        self, nets: Nets, song: Song, melody: Melody | None, settings: NeuralConversion,
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.nets, self.song, self.melody, self.settings, self.check = nets, song, melody, settings, check
        self.config = nets.voice.config
        self.last = song.frames
        self.latent_dice, self.source_dice = Dice(settings.seed, 0), Dice(settings.seed, 1)
        self.g = nets.voice.voice(torch.tensor([settings.speaker], device=nets.device))
        if melody is not None:
            padded = np.pad(melody.f0, AROUND)  # beyond the song nothing is voiced
            self.f0 = torch.from_numpy(padded)[None]
            self.phases = phases(self.f0, self.config.rate, self.config.hop)

    # --- latents ----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def latents(self, span: Span, power: Array) -> Iterator[Tensor]:
        """z of frames start-MARGIN … stop+MARGIN of the span, [1, inter, n] after [1, inter, n], on the device."""
        cuts = list(pieces(span, power))
        rise = (torch.arange(2 * EDGE, device=self.nets.device) + 0.5) / (2 * EDGE)
        tail: Tensor | None = None
        for piece in cuts:
            self.check()
            z = self._piece(piece)
            first, final = piece is cuts[0], piece is cuts[-1]
            begin, end = (EDGE if first else AROUND - EDGE), (EDGE if final else AROUND + EDGE)
            if tail is not None:
                z[..., begin : begin + 2 * EDGE] = torch.lerp(tail, z[..., begin : begin + 2 * EDGE], rise)
            stop = z.shape[2] - end
            tail = z[..., stop : stop + 2 * EDGE].clone()
            yield z[..., begin:stop]

    def _piece(self, piece: Span) -> Tensor:
        """z of a piece and AROUND frames on either side, from what is heard CONTEXT frames around it."""
        start, stop = piece.start - CONTEXT, piece.stop + CONTEXT
        features, pitch = self._features(start, stop), None
        if self.melody is not None:
            there = mirrored(np.arange(start, stop), self.last)
            pitch = torch.from_numpy(tuning.coarse(self.melody.f0[there]))[None].to(self.nets.device)
        noise = None
        if self.settings.noise_scale:
            noise = self.latent_dice(start, stop, self.config.inter)[None].to(self.nets.device)
        z = self.nets.voice.encode(features, pitch, self.g, noise, self.settings.noise_scale)
        return z[..., CONTEXT - AROUND : stop - start - CONTEXT + AROUND]

    def _features(self, start: int, stop: int) -> Tensor:
        """[1, stop - start, C] of what is heard, near what the person's recordings sound like."""
        count = -(-(stop - start) // 2)  # features come every 20 ms
        wave = torch.from_numpy(self.song.read(start * HOP, count * 2 * HOP + 80))[None]
        heard = self.nets.content.features(wave, version=self.nets.version)
        if self.melody is None:
            return drawn(heard, self.nets.index, self.settings, None)[:, : stop - start]
        there = mirrored(np.arange(start, stop), self.last)
        voiced = torch.from_numpy(self.melody.voiced[there])[None].to(heard.device)
        return drawn(heard, self.nets.index, self.settings, voiced)

    # --- audio ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def sing(self, span: Span, power: Array, block: int = BLOCK) -> Iterator[Array]:
        """The audio of a span in order, [n*hop] after [n*hop], faded in and out at its ends."""
        waiting = torch.zeros(1, self.config.inter, 0, device=self.nets.device)
        begin, done = span.start - MARGIN, span.start  # first frame of `waiting`; first frame that is not sung yet
        for z in self.latents(span, power):
            waiting = torch.cat([waiting, z], 2)
            while done < span.stop:
                stop = min((done // block + 1) * block, span.stop)
                if begin + waiting.shape[2] < stop + MARGIN:
                    break
                self.check()
                here = waiting[..., done - MARGIN - begin : stop + MARGIN - begin]
                yield self._faded(self._decode(here, done - MARGIN, stop + MARGIN), span, done, stop)
                waiting, begin, done = waiting[..., stop - MARGIN - begin :], stop - MARGIN, stop

    def _decode(self, z: Tensor, start: int, stop: int) -> Array:
        """The audio of frames start+MARGIN … stop-MARGIN."""
        hop = self.config.hop
        source = None
        if self.melody is not None:
            low, high = start + AROUND, stop + AROUND  # in the padded track
            noise = self.source_dice(start, stop, hop).T.reshape(1, -1)
            if not self.settings.noise_scale:
                noise = torch.zeros_like(noise)
            source = sine_source(self.f0[:, low:high], self.config.rate, hop, noise, self.phases[:, low:high])
            source = source.to(z.device)
        audio = self.nets.decoder(z, self.g, source)[0, 0]
        whole: Array = audio[MARGIN * hop : (stop - start - MARGIN) * hop].cpu().numpy()
        return whole

    def _faded(self, audio: Array, span: Span, start: int, stop: int) -> Array:
        gain = opening(span, start, stop, self.last, self.config.hop)
        return audio if gain is None else audio * gain


def drawn(heard: Tensor, index: Index | None, settings: NeuralConversion, voiced: Tensor | None) -> Tensor:
    """Features [1, T50, C] → [1, T, C] at 100 Hz, drawn to the index by index_rate; where `voiced` [1, T] says that
    there is no voice, by `protect` of that (0.5: by all of it). T is at most 2*T50, and that without `voiced`."""
    near = own = heard.repeat_interleave(2, dim=1)
    if voiced is not None:
        near = own = own[:, : voiced.shape[1]]
    if index is not None and settings.index_rate:
        blended = index.blend(heard[0].cpu().numpy(), settings.index_rate)
        near = torch.from_numpy(blended)[None].to(heard.device).repeat_interleave(2, dim=1)[:, : own.shape[1]]
        if settings.protect < 0.5 and voiced is not None:
            share = torch.where(voiced[:, : own.shape[1], None], 1.0, settings.protect)
            near = near * share + own * (1 - share)
    return near
