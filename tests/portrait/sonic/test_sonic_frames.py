"""Latents become the pictures of diffusers' own decoding, in memory that does not grow, and as many as needed."""

from __future__ import annotations

import copy
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))
from make_sonic_rife import weights
from seeded import noise, shapes_of

from sonic_making import as_nets, filled, tiny_sonic_files
from vividcover.errors import Canceled, EngineError
from vividcover.portrait.sonic import decode as decoding
from vividcover.portrait.sonic.config import DECODE_CHUNK, LATENT_SCALE
from vividcover.portrait.sonic.decode import Estimate, Held, as_rgb, decode, decoded, latents_of
from vividcover.portrait.sonic.drawing import compiled, draw
from vividcover.portrait.sonic.rife import IFNet
from vividcover.portrait.sonic.tail import frames
from vividcover.workspace import Silent

H = W = 4  # latent pixels


@pytest.fixture(scope="module")
def vae() -> Any:
    return as_nets(tiny_sonic_files())["vae"]


@pytest.fixture(scope="module")
def rife() -> IFNet:
    net = IFNet(16).eval()
    net.load_state_dict(weights(shapes_of(net)))
    return net


def song(count: int, h: int = H, w: int = W) -> torch.Tensor:
    """Scaled latents [count, 4, h, w] that change slowly from frame to frame, as those of a song do."""
    key = torch.from_numpy(noise("song", count // 6 + 3, 4 * h * w))
    slow = torch.nn.functional.interpolate(key.T[None], size=6 * len(key), mode="linear")[0, :, :count]
    return 0.8 * slow.T.reshape(count, 4, h, w).contiguous()


def published(vae: Any, latents: torch.Tensor, chunk: int = DECODE_CHUNK) -> torch.Tensor:
    """[F, 3, 8h, 8w] in 0..1 as diffusers' own pipeline decodes them, in pieces."""
    from diffusers import StableVideoDiffusionPipeline as Pipeline

    with torch.no_grad():
        made = Pipeline.decode_latents(SimpleNamespace(vae=vae), latents[None], len(latents), chunk)[0]
    return (made.transpose(0, 1) * 0.5 + 0.5).clamp(0, 1)


def all_of(pieces: Iterator[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(pieces))


# --- the autoencoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8, 21])
def test_frames_are_decoded_as_the_published_pipeline_does(vae: Any, count: int) -> None:
    latents = song(count)
    ours = all_of(decode(Held(latents), vae))
    assert ours.shape == (count, 3, 8 * H, 8 * W)
    assert float((ours - published(vae, latents)).abs().max()) < 1e-5
    assert float(ours.std()) > 0.05


def test_a_decoder_with_all_that_the_published_one_has_is_walked_alike() -> None:
    """Two layers a block, with attention in the middle and blocks that change the number of channels."""
    from diffusers import AutoencoderKLTemporalDecoder

    kind: Any = AutoencoderKLTemporalDecoder
    wide = (32, 64, 96, 96)
    vae = filled(kind(block_out_channels=wide, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2))
    latents = song(7, 4, 6)
    assert len(vae.decoder.mid_block.attentions) == 1
    with torch.no_grad():
        theirs = vae.decode(latents, num_frames=7).sample
        ours = draw(vae.decoder, latents)
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.std())


def test_the_still_becomes_the_published_latents(vae: Any) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    look = latents_of(rgb, vae)
    pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255 * 2 - 1
    with torch.no_grad():
        theirs = vae.encode(pixels).latent_dist.mode()
    assert look.mode.shape == (1, 4, 6, 8)
    assert float((look.mode - theirs).abs().max()) < 1e-5
    assert torch.equal(look.scaled, look.mode * LATENT_SCALE)


def jumps(pictures: torch.Tensor, seams: list[int]) -> float:
    """How much larger the change of acceleration is at the seams than between them."""
    bend = (pictures[2:] - 2 * pictures[1:-1] + pictures[:-2]).abs().mean((1, 2, 3))
    at = [frame for seam in seams for frame in (seam - 2, seam - 1)]  # bends that reach over the seam
    rest = [frame for frame in range(len(bend)) if frame not in at]
    return float(bend[at].mean() / bend[rest].mean())


def test_smooth_decoding_has_no_seam_every_eight_frames(vae: Any) -> None:
    latents, seams = song(48), list(range(8, 48, 8))
    whole = published(vae, latents, 48)
    apart, smooth = (all_of(decode(Held(latents), vae, smooth=smooth)) for smooth in (False, True))
    assert len(smooth) == 48
    assert jumps(apart, seams) > 1.5 * jumps(whole, seams)  # there is something to mend
    assert jumps(smooth, seams) < 1.15 * jumps(whole, seams)
    assert float((smooth - whole).abs().mean()) < 0.7 * float((apart - whole).abs().mean())


def line(pictures: torch.Tensor, period: int = DECODE_CHUNK) -> float:
    """The spectral line of the mean brightness at one in `period` frames (64 of them), in levels of 255."""
    light = 255 * pictures.mean((1, 2, 3))[:64].double().numpy()
    return float(np.abs(np.fft.rfft((light - light.mean()) * np.hanning(64)))[64 // period])


def test_smooth_decoding_flickers_less_every_064_seconds(vae: Any) -> None:
    frozen, moving = song(1).expand(64, -1, -1, -1), song(64)
    apart, smooth = (line(all_of(decode(Held(frozen), vae, smooth=smooth))) for smooth in (False, True))
    assert line(published(vae, frozen, 64)) < 1e-3  # what does not move should not flicker
    assert smooth < 0.5 * apart
    apart, smooth = (line(all_of(decode(Held(moving), vae, smooth=smooth))) for smooth in (False, True))
    assert apart > 2 * line(published(vae, moving, 64))  # of which some is the song's own
    assert smooth < 1.1 * line(published(vae, moving, 64))


@pytest.mark.parametrize("count", [1, 8, 11, 12, 13, 20])
def test_smooth_decoding_makes_every_frame_once(vae: Any, count: int) -> None:
    made = all_of(decode(Held(song(count)), vae, smooth=True))
    assert len(made) == count
    if count <= 12:  # one piece: nothing to fade
        assert torch.allclose(made, published(vae, song(count), 12), atol=1e-5)


def test_what_is_compiled_is_compiled_for_whole_pieces_alone(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def backend(graph: Any, inputs: list[torch.Tensor]) -> Any:
        lengths.extend(len(x) for x in inputs if x.dim() == 4 and x.shape[-1] >= W)
        return graph

    monkeypatch.setattr(decoding, "compiled", lambda: compiled(backend))
    latents = song(21)  # two pieces of eight, and one of five
    made = all_of(decode(Held(latents), vae, compile=True))
    assert float((made - published(vae, latents)).abs().max()) < 1e-5
    assert set(lengths) == {8}
    assert len(lengths) <= 8  # few graphs for all blocks
    before = len(lengths)
    all_of(decode(Held(latents), vae, compile=True))
    assert len(lengths) == before


# --- where the memory or the numbers do not suffice -------------------------------------------------------------------


class Crowded:
    """An autoencoder on a device whose memory holds so many frames and so many latent pixels."""

    def __init__(self, vae: Any, most: int, side: int = 10_000) -> None:
        self.vae, self.most, self.side = vae, most, side
        self.device, self.dtype = vae.device, vae.dtype
        self.decoder = copy.copy(vae.decoder)  # the same tensors, another first layer
        self.decoder._modules = {**vae.decoder._modules, "conv_in": Door(vae.decoder.conv_in, self.room)}

    def encode(self, x: torch.Tensor) -> Any:
        self.room(x, x.shape[-1] // 8)
        return self.vae.encode(x)

    def room(self, x: torch.Tensor, side: int) -> None:
        if len(x) > self.most or side > self.side:
            raise torch.OutOfMemoryError("CUDA out of memory")


class Door(torch.nn.Module):
    """A layer that something comes before."""

    def __init__(self, layer: torch.nn.Module, before: Callable[[torch.Tensor, int], None]) -> None:
        super().__init__()
        self.layer, self.before = layer, before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.before(x, x.shape[-1])
        return self.layer(x)  # type: ignore[no-any-return]


def test_pieces_become_shorter_where_memory_is_scarce_and_that_is_said(vae: Any) -> None:
    said, latents = Silent(), song(13)
    made = all_of(decode(Held(latents), Crowded(vae, 2), reporter=said))
    assert torch.allclose(made, published(vae, latents, 2), atol=1e-5)
    assert [note.rsplit(" with ", 1)[1] for note in said.notes] == ["4 frames at a time.", "2 frames at a time."]


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_smooth_decoding_too_goes_on_with_shorter_pieces(vae: Any, most: int) -> None:
    crowd = Crowded(vae, 12)
    made = []
    for piece in decode(Held(song(30)), crowd, smooth=True, reporter=Silent()):
        made.append(piece)
        crowd.most = most  # somebody else took the memory after the first piece
    assert len(torch.cat(made)) == 30
    assert float((torch.cat(made) - published(vae, song(30), 30)).abs().mean()) < 0.1


def test_a_picture_too_large_for_the_memory_is_made_in_tiles(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "TILES", (24, 16))
    said, latents = Silent(), song(2, 20, 40)
    made = all_of(decode(Held(latents), Crowded(vae, 8, 24), reporter=said))
    assert made.shape == (2, 3, 160, 320)
    assert said.notes[-1].endswith("tiles of 192 px.")
    assert float((made - published(vae, latents, 1)).abs().mean()) < 0.1
    rgb = np.random.default_rng(0).integers(0, 256, (160, 320, 3), np.uint8)
    assert latents_of(rgb, Crowded(vae, 8, 24), said).mode.shape == (1, 4, 20, 40)
    with pytest.raises(EngineError, match="memory of cpu does not suffice"):
        all_of(decode(Held(latents), Crowded(vae, 8, 8)))


def test_numbers_that_overflow_are_made_again_in_float32(vae: Any) -> None:
    half, said = copy.deepcopy(vae).to(torch.bfloat16), Silent()
    bright = copy.deepcopy(half.decoder.conv_out)
    half.decoder.conv_out = torch.nn.Sequential(bright)

    def overflow(_: Any, __: Any, made: torch.Tensor) -> torch.Tensor:
        return made * float("inf") if made.dtype == torch.bfloat16 else made

    bright.register_forward_hook(overflow)
    made = all_of(decode(Held(song(9)), half, reporter=said))
    assert said.notes == ["The autoencoder overflows in bfloat16: it goes on in float32."]
    assert float((made - published(vae, song(9))).abs().max()) < 0.1  # its weights were rounded
    with pytest.raises(EngineError, match="no numbers"):
        all_of(decode(Held(torch.full((1, 4, H, W), float("nan"))), vae))


# --- the video's pictures ---------------------------------------------------------------------------------------------


def test_two_pictures_have_a_third_between_them_and_the_last_one_is_held(vae: Any, rife: IFNet) -> None:
    latents, said = song(11), Silent()
    made = list(frames(Held(latents), vae, rife, 24, reporter=said))
    assert len(made) == 24
    drawn = all_of(decode(Held(latents), vae))
    assert all(np.array_equal(made[2 * i], as_rgb(drawn[i : i + 1])[0]) for i in range(11))
    middle = as_rgb(rife.between(drawn[:-1], drawn[1:]))  # also over the pieces' borders
    assert max(int(np.abs(made[2 * i + 1].astype(int) - middle[i]).max()) for i in range(10)) <= 1
    assert all(np.array_equal(rgb, made[20]) for rgb in made[21:])
    assert said.notes == ["The last picture is held for 3 frames (0.12 s), until the sound is over."]


@pytest.mark.parametrize(("drawn", "count"), [(1, 1), (1, 2), (2, 3), (9, 18), (9, 5)])
def test_there_are_exactly_as_many_pictures_as_asked_for(vae: Any, rife: IFNet, drawn: int, count: int) -> None:
    said = Silent()
    made = list(frames(Held(song(drawn)), vae, rife, count, reporter=said))
    assert len(made) == count
    assert all(rgb.shape == (8 * H, 8 * W, 3) and rgb.dtype == np.uint8 for rgb in made)
    assert said.notes == []


def test_the_same_latents_give_the_same_pictures_in_pieces_of_any_pace(vae: Any, rife: IFNet) -> None:
    first = list(frames(Held(song(20)), vae, rife, 39))
    slow = []
    for rgb in frames(Held(song(20)), vae, rife, 39):
        time.sleep(0.005)
        slow.append(rgb)
    assert np.array_equal(first, slow)


class Noting(Held):
    """Latents that know how far they were read."""

    furthest = 0

    def read(self, start: int, stop: int) -> torch.Tensor:
        Noting.furthest = max(Noting.furthest, stop)
        return super().read(start, stop)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_next_piece_is_made_ahead_and_never_more_than_a_few(vae: Any, rife: IFNet) -> None:
    """What makes the memory independent of the song's length."""
    Noting.furthest = 0
    for number, _ in enumerate(frames(Noting(song(100)), vae, rife, 199)):
        assert Noting.furthest <= number // 2 + 4 * DECODE_CHUNK
        if number == 60:  # the next piece is made meanwhile, but the thread does not use the pause to run away
            wait_until(lambda: Noting.furthest >= 60 // 2 + 1 + DECODE_CHUNK)
            time.sleep(0.3)
    assert Noting.furthest == 100


# --- cancel, errors ---------------------------------------------------------------------------------------------------


class Impatient(Silent):
    canceled = False

    def check(self) -> None:
        if self.canceled:
            raise Canceled()


def test_cancel_is_answered_while_the_autoencoder_works(vae: Any, rife: IFNet) -> None:
    class Slow(Crowded):
        def room(self, x: torch.Tensor, side: int) -> None:
            time.sleep(5)

    reporter = Impatient()
    threading.Timer(0.2, lambda: setattr(reporter, "canceled", True)).start()
    began = time.monotonic()
    with pytest.raises(Canceled):
        list(frames(Held(song(8)), Slow(vae, 99), rife, 15, reporter=reporter))
    assert time.monotonic() - began < 3.0  # a second, and a busy machine's patience


def test_no_thread_stays_behind_a_caller_who_leaves(vae: Any, rife: IFNet) -> None:
    made = frames(Held(song(60)), vae, rife, 119)
    next(made)
    made.close()
    wait_until(lambda: not any(thread.name == "decode" for thread in threading.enumerate()))


def test_an_error_in_the_thread_reaches_the_caller(vae: Any, rife: IFNet) -> None:
    with pytest.raises(EngineError, match="does not suffice"):
        list(frames(Held(song(8)), Crowded(vae, 0), rife, 15))


# --- early looks ------------------------------------------------------------------------------------------------------


def test_a_cheap_look_shows_what_the_latents_mean() -> None:
    """Where colours do follow from the latents, the fit finds how; the autoencoder is not asked."""
    latents = torch.from_numpy(noise("look", 1, 4, 16, 12))
    mixing = torch.tensor([[0.08, 0.02, 0.0], [0.0, 0.09, 0.01], [0.01, -0.03, 0.07], [-0.05, 0.0, 0.02]])
    small = (latents[0].permute(1, 2, 0) @ mixing + 0.5).clamp(0, 1)
    rgb = (small * 255).round().to(torch.uint8).numpy().repeat(8, 0).repeat(8, 1)
    look = Estimate.of(rgb, latents)(latents[0])
    assert look.shape == (128, 96, 3)
    assert look.dtype == np.uint8
    assert np.abs(look[4::8, 4::8].astype(int) - small.mul(255).numpy()).mean() < 6
    plain = Estimate.of(np.full((128, 96, 3), 90, np.uint8), torch.zeros(1, 4, 16, 12))
    assert abs(int(plain(torch.zeros(4, 16, 12)).mean()) - 90) <= 1


def test_a_dear_look_is_the_frame_as_the_autoencoder_draws_it(vae: Any) -> None:
    latents = song(1)
    assert np.array_equal(decoded(latents[0], vae), as_rgb(published(vae, latents))[0])
