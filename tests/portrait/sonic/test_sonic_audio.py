"""What is heard is what the published program hears, whatever the length, and memory does not grow with it."""

from __future__ import annotations

import itertools
import os
import pickle
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))
from make_sonic_audio import CASES, wave
from seeded import fill, noise, shapes_of, signal

from vividcover.errors import AudioError, Canceled, NotFoundError, StorageError
from vividcover.portrait.sonic import features
from vividcover.portrait.sonic.config import TINY_AUDIO, AudioConfig, SonicOptions
from vividcover.portrait.sonic.features import Heard, frames_in, listen, pieces
from vividcover.portrait.sonic.mel import log_mel
from vividcover.portrait.sonic.speech import Audio2Bucket, Audio2Token
from vividcover.portrait.sonic.whisper import WhisperEncoder
from vividcover.song.pcm import PcmWriter, read_pcm, write_pcm
from vividcover.workspace import Silent

GOLD = np.load(Path(__file__).parents[2] / "oracles" / "golden_sonic_audio.npz")
SHORT_PIECES = replace(TINY_AUDIO, positions=200)  # 4 s instead of 30
SAMPLE = Path(__file__).parents[3] / "sample"


def filled(net: Any) -> Any:
    net.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(net)).items()})
    return net


def nets(c: AudioConfig = TINY_AUDIO, dtype: torch.dtype = torch.float32) -> Any:
    """The audio half of an opened Sonic."""
    return SimpleNamespace(
        audio_config=c, dtype=dtype, device=torch.device("cpu"), whisper=filled(WhisperEncoder(c)),
        tokens=filled(Audio2Token(c)), buckets=filled(Audio2Bucket(c)),
    )  # fmt: skip


def hear(
    vocals: Path, folder: Path, net: Any = None, reporter: Any = None, clip: str = "clip", **options: Any
) -> Heard:
    net = net or nets()
    return listen(
        vocals, net, folder, clip=torch.from_numpy(noise(clip, 1, net.audio_config.context)),
        options=SonicOptions(**options), reporter=reporter or Silent(),
    )  # fmt: skip


def written(path: Path, seconds: float, rate: int = 16_000, channels: int = 1) -> Path:
    return write_pcm(path, wave(seconds, rate, channels), rate)


def all_of(heard: Heard) -> bytes:
    """Every bit that the network will be given."""
    parts = (heard.tokens(0, heard.frames), heard.buckets(0, heard.frames), heard.silent_tokens)
    return b"".join(part.numpy().tobytes() for part in parts) + heard.activity.tobytes()


class Stopping(Silent):
    """Cancels, or fails as a killed process does, after so many looks."""

    def __init__(self, after: int, error: type[BaseException] = Canceled) -> None:
        super().__init__()
        self.left, self.error, self.told = after, error, []  # type: int, type[BaseException], list[float]

    def progress(self, fraction: float, text: str = "") -> None:
        self.told.append(fraction)
        self.left -= 1
        if self.left < 0:
            raise self.error()


# --- as published -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_what_is_heard_is_what_the_published_program_hears(case: str, tmp_path: Path) -> None:
    c, seconds, rate, channels, frames, every = CASES[case]
    heard = hear(written(tmp_path / "voice.wav", seconds, rate, channels), tmp_path / "heard", nets(c))
    assert heard.frames == GOLD[f"{case}/count"]
    assert heard.seconds == pytest.approx(seconds, abs=1 / rate)
    tokens = heard.tokens_of(frames).reshape(len(frames), -1)[:, ::every].numpy()
    np.testing.assert_allclose(tokens, GOLD[f"{case}/tokens"], atol=1e-4)
    np.testing.assert_allclose(heard.silent_tokens.reshape(-1)[::every].numpy(), GOLD[f"{case}/silent"], atol=1e-5)
    np.testing.assert_allclose(heard.buckets(0, heard.frames).numpy(), GOLD[f"{case}/buckets"], atol=5e-4)


@pytest.mark.parametrize("case", ["plain", "long"])
def test_the_spectrogram_is_whispers(case: str) -> None:
    _, seconds, rate, channels, _, _ = CASES[case]
    sound = torch.from_numpy(wave(seconds, rate, channels)[0])
    whole = torch.cat([log_mel(piece) for piece in sound.split(480_000)], 1)  # its loudest is that of each 30 s
    np.testing.assert_allclose(whole[::7, ::97].numpy(), GOLD[f"{case}/mel"], atol=1e-5)


def test_the_nets_have_the_published_names_and_sizes() -> None:
    with torch.device("meta"):
        found = {kind.__name__: kind(AudioConfig()) for kind in (WhisperEncoder, Audio2Token, Audio2Bucket)}
    sizes = {name: sum(tensor.numel() for tensor in net.state_dict().values()) for name, net in found.items()}
    assert sizes == {"WhisperEncoder": 8_208_384, "Audio2Token": 54_300_672, "Audio2Bucket": 21_762_050}
    assert {name: shape for name, shape in shapes_of(found["Audio2Token"]).items() if name.endswith("weight")} == {
        "proj1.weight": (1024, 19200), "proj2.weight": (1024, 1024), "proj3.weight": (32768, 1024),
        "norm.weight": (1024,),
    }  # fmt: skip
    assert shapes_of(found["Audio2Bucket"])["proj1.weight"] == (1024, 20224)
    assert set(shapes_of(found["WhisperEncoder"])) >= {
        "model.encoder.conv1.weight", "model.encoder.embed_positions.weight",
        "model.encoder.layers.3.self_attn.k_proj.weight", "model.encoder.layer_norm.bias",
    }  # fmt: skip
    assert "model.encoder.layers.0.self_attn.k_proj.bias" not in shapes_of(found["WhisperEncoder"])


def test_the_silent_tokens_are_those_of_no_sound() -> None:
    net = nets().tokens
    nothing = torch.zeros(1, 10, TINY_AUDIO.layers + 1, TINY_AUDIO.width)
    assert torch.equal(net.silent(), net(nothing)[0])
    assert net.silent().std() > 0.1  # and they are not nothing


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_a_tenth_of_a_second_is_one_frame(tmp_path: Path) -> None:
    heard = hear(written(tmp_path / "voice.wav", 0.1), tmp_path / "heard")
    assert (heard.frames, heard.tokens(0, 1).shape, heard.buckets(0, 1).shape) == (1, (1, 6, 48), (1, 2))


def test_too_little_sound_is_said(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"voice\.wav is 0\.07 s long"):
        hear(written(tmp_path / "voice.wav", 0.07), tmp_path / "heard")


def test_seven_minutes_are_heard_to_the_end(tmp_path: Path) -> None:
    vocals, piece = tmp_path / "voice.wav", signal(15.0, 16_000)[None]
    with PcmWriter(vocals, 16_000, 1) as out:
        for _ in range(28):
            out.write(piece)
        out.write(piece[:, :16_000])
    heard = hear(vocals, tmp_path / "heard")
    assert (heard.frames, heard.seconds) == (frames_in(421 * 16_000), 421.0)
    assert heard.frames > 10_000 // 2  # where the published program stops
    last = heard.tokens(heard.frames - 30, heard.frames)
    assert (last[0] - last[15]).abs().max() > 0.1  # it is sound that was heard there, not nothing


@pytest.mark.parametrize("samples", [1280, 479_999, 480_000, 480_001, 960_000, 1_234_567, 7 * 60 * 16_000])
@pytest.mark.parametrize("smooth", [False, True])
def test_pieces_cover_every_state_once(samples: int, smooth: bool) -> None:
    states = 2 * (samples // 640)
    todo = pieces(states, samples, 1500, smooth=smooth)
    assert [piece.first for piece in todo] == [0, *(piece.stop for piece in todo[:-1])]
    assert todo[-1].stop == states
    for piece in todo:
        assert piece.start <= piece.first <= piece.first + piece.fade <= piece.stop <= piece.start + 1500
    for before, after in itertools.pairwise(todo):
        assert after.first + after.fade <= before.start + 1500  # both know the states that are mixed


# --- files ------------------------------------------------------------------------------------------------------------


def test_any_file_with_sound_is_heard(tmp_path: Path) -> None:
    heard = hear(SAMPLE / "song" / "vocals.flac", tmp_path / "heard")
    assert heard.frames == 373
    assert sorted(path.name for path in (tmp_path / "heard").iterdir()) == [
        "buckets.f32", "heard.json", "levels.f32", "tokens.raw",
    ]  # fmt: skip


def test_vocals_in_which_nobody_sings_are_said(tmp_path: Path) -> None:
    reporter = Silent()
    silence = write_pcm(tmp_path / "voice.wav", np.zeros(32_000, np.float32), 16_000)
    assert not hear(silence, tmp_path / "heard", reporter=reporter).activity.any()
    assert reporter.notes == ["Nobody is heard singing in voice.wav: the mouth will hardly move."]
    hear(written(tmp_path / "sung.wav", 2.0), tmp_path / "b", reporter=reporter)
    assert len(reporter.notes) == 1


def test_samples_that_are_no_numbers_are_silence(tmp_path: Path) -> None:
    voice = wave(2.0, 44_100, 1)[0]
    clean = voice.copy()
    voice[18_000:18_010], voice[19_000:19_010] = np.nan, np.inf
    clean[18_000:18_010] = clean[19_000:19_010] = 0
    heard = hear(write_pcm(tmp_path / "voice.wav", voice, 44_100), tmp_path / "heard")
    assert all_of(heard) == all_of(hear(write_pcm(tmp_path / "clean.wav", clean, 44_100), tmp_path / "clean"))
    assert heard.tokens(0, heard.frames).isfinite().all()
    assert heard.activity.any()


def test_what_is_no_sound_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        hear(tmp_path / "none.wav", tmp_path / "heard")
    (tmp_path / "text.wav").write_text("la la la")
    with pytest.raises(AudioError, match="text file"):
        hear(tmp_path / "text.wav", tmp_path / "heard")


def test_a_wav_of_another_program_is_decoded_not_misread(tmp_path: Path) -> None:
    ours = written(tmp_path / "ours.wav", 2.0, 44_100)
    head = bytearray(ours.read_bytes())
    head[20:22], head[34:36] = b"\x01\x00", b"\x10\x00"  # 16 bit integers
    samples, _ = read_pcm(ours)
    numbers = np.clip(np.round(samples[0] * 32_768), -32_768, 32_767).astype("<i2").tobytes()
    head[28:34] = (88_200).to_bytes(4, "little") + b"\x02\x00"
    head[54:58], head[4:8] = len(numbers).to_bytes(4, "little"), (50 + len(numbers)).to_bytes(4, "little")
    (tmp_path / "theirs.wav").write_bytes(bytes(head[:58]) + numbers)
    mine, theirs = hear(ours, tmp_path / "a"), hear(tmp_path / "theirs.wav", tmp_path / "b")
    assert (mine.tokens(0, mine.frames) - theirs.tokens(0, theirs.frames)).abs().max() < 0.2
    assert theirs.frames == 25


def test_windows_may_wrap_round_the_end(tmp_path: Path) -> None:
    heard = hear(written(tmp_path / "voice.wav", 3.0), tmp_path / "heard")
    indices = [35, 36, 0, 1, 2]
    assert torch.equal(heard.tokens_of(indices), torch.stack([heard.tokens(i, i + 1)[0] for i in indices]))
    assert torch.equal(heard.buckets_of(indices), torch.cat((heard.buckets(35, 37), heard.buckets(0, 3))))
    with pytest.raises(IndexError):
        heard.tokens(30, 39)


def test_halves_are_kept_where_the_network_computes_in_halves(tmp_path: Path) -> None:
    vocals = written(tmp_path / "voice.wav", 1.0)
    full, half = hear(vocals, tmp_path / "a"), hear(vocals, tmp_path / "b", nets(dtype=torch.float16))
    assert half.tokens(0, 5).dtype == torch.float16
    assert torch.equal(half.tokens(0, 12), full.tokens(0, 12).half())


def test_another_process_can_read_what_was_heard(tmp_path: Path) -> None:
    heard = hear(written(tmp_path / "voice.wav", 1.0), tmp_path / "heard")
    assert all_of(pickle.loads(pickle.dumps(heard))) == all_of(heard)


def test_a_folder_in_which_nothing_was_heard_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Nothing was heard in"):
        Heard(tmp_path)


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [False, True])
def test_a_run_that_is_stopped_anywhere_goes_on_with_the_same_bits(tmp_path: Path, smooth: bool) -> None:
    vocals, net = written(tmp_path / "voice.wav", 13.0), nets(SHORT_PIECES)
    whole = Stopping(1_000)
    expected = all_of(hear(vocals, tmp_path / "whole", net, whole, smooth_listening=smooth))
    assert whole.told == sorted(whole.told)
    steps = len(whole.told)
    for after in range(steps):
        folder = tmp_path / f"stopped-{after}"
        with pytest.raises(KeyboardInterrupt):
            hear(vocals, folder, net, Stopping(after, KeyboardInterrupt), smooth_listening=smooth)
        again = Stopping(1_000)
        assert all_of(hear(vocals, folder, net, again, smooth_listening=smooth)) == expected
        assert len(again.told) == steps - after - 1  # nothing is done twice


def test_half_written_tokens_are_written_again(tmp_path: Path) -> None:
    vocals, folder = written(tmp_path / "voice.wav", 20.0), tmp_path / "heard"
    expected = all_of(hear(vocals, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        hear(vocals, folder, reporter=Stopping(3, KeyboardInterrupt))
    with (folder / "tokens.raw").open("ab") as file:
        file.write(b"torn" * 1000)
    (folder / "hearing.json").write_text((folder / "hearing.json").read_text()[:-9])  # torn as well
    assert all_of(hear(vocals, folder)) == expected


def test_what_was_heard_is_not_heard_again_unless_something_changed(tmp_path: Path) -> None:
    vocals, folder = written(tmp_path / "voice.wav", 2.0), tmp_path / "heard"
    first = hear(vocals, folder)
    again = Stopping(0)  # any work would be a failure
    assert hear(vocals, folder, reporter=again).key == first.key
    assert hear(vocals, folder, dynamic_scale=1.5, seed=7, reporter=again).key == first.key  # nothing to do with it
    other = nets()
    other.tokens.proj3.bias += 0.5
    keys = [first.key, hear(vocals, folder, other).key, hear(vocals, folder, clip="another").key]
    keys += [hear(vocals, folder, smooth_listening=True).key]
    keys += [hear(written(tmp_path / "other.wav", 2.1), folder).key]
    assert len(set(keys)) == 5


def test_a_shorter_song_in_the_same_folder_keeps_nothing_of_the_longer_one(tmp_path: Path) -> None:
    short, long = written(tmp_path / "short.wav", 2.0), written(tmp_path / "long.wav", 9.0)
    expected = all_of(hear(short, tmp_path / "alone"))
    hear(long, tmp_path / "heard")
    assert all_of(hear(short, tmp_path / "heard")) == expected
    assert {p.name: p.stat().st_size for p in (tmp_path / "heard").iterdir() if p.suffix != ".json"} == {
        p.name: p.stat().st_size for p in (tmp_path / "alone").iterdir() if p.suffix != ".json"
    }


@pytest.mark.parametrize("name", ["tokens.raw", "levels.f32", "buckets.f32", "heard.json"])
def test_what_was_tidied_away_is_heard_again(tmp_path: Path, name: str) -> None:
    vocals, folder = written(tmp_path / "voice.wav", 2.0), tmp_path / "heard"
    expected = all_of(hear(vocals, folder))
    (folder / name).unlink()
    assert all_of(hear(vocals, folder)) == expected


@pytest.mark.parametrize("name", ["sound.f32", "states.f32", "tokens.raw", "levels.f32"])
def test_what_was_tidied_away_halfway_is_heard_again(tmp_path: Path, name: str) -> None:
    vocals, folder = written(tmp_path / "voice.wav", 20.0), tmp_path / "heard"
    expected = all_of(hear(vocals, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        hear(vocals, folder, reporter=Stopping(3, KeyboardInterrupt))
    (folder / name).unlink()
    assert all_of(hear(vocals, folder)) == expected


def test_a_killed_run_leaves_nothing_behind_that_stays(tmp_path: Path) -> None:
    vocals, folder = SAMPLE / "song" / "vocals.flac", tmp_path / "heard"

    class Killed(Silent):
        """Ends the process at once, as kill -9 does, in the middle of decoding and then of resampling."""

        def __init__(self, when: str) -> None:
            super().__init__()
            self.when = when

        def check(self) -> None:
            if list(folder.glob(self.when)):
                os._exit(9)

        def progress(self, fraction: float, text: str = "") -> None:
            self.check()

    for when in (".sound.f32.wav.*.part", ".sound.f32.????????.part", "states.f32"):
        if (child := os.fork()) == 0:
            hear(vocals, folder, reporter=Killed(when))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(folder.iterdir())) > 1
    assert all_of(hear(vocals, folder)) == all_of(hear(vocals, tmp_path / "whole"))
    assert sorted(p.name for p in folder.iterdir()) == ["buckets.f32", "heard.json", "levels.f32", "tokens.raw"]


def test_cancel_is_answered_while_a_net_works(tmp_path: Path) -> None:
    class Slow:
        """A whisper that takes its time, as a full-size one does on a small machine."""

        model = nets().whisper.model

        def parameters(self) -> Any:
            return self.model.parameters()

        def __call__(self, mel: torch.Tensor) -> torch.Tensor:
            time.sleep(5)
            return torch.zeros(1, 1500, 5, 16)

    slow = nets()
    slow.whisper = Slow()
    _canceled_soon(written(tmp_path / "voice.wav", 1.0), tmp_path / "heard", slow)


def test_cancel_is_answered_while_a_long_recording_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(path: Path) -> str:
        time.sleep(5)
        return "read"

    monkeypatch.setattr(features, "sha256_file", slow)
    _canceled_soon(written(tmp_path / "voice.wav", 1.0), tmp_path / "heard", nets())


def _canceled_soon(vocals: Path, folder: Path, net: Any) -> None:
    class Canceling(Silent):
        wanted = threading.Event()

        def check(self) -> None:
            if self.wanted.is_set():
                raise Canceled()

    reporter = Canceling()
    threading.Timer(0.3, reporter.wanted.set).start()
    began = time.monotonic()
    with pytest.raises(Canceled):
        hear(vocals, folder, net, reporter)
    assert time.monotonic() - began < 3.5  # a second, and a busy machine's patience


# --- smooth listening -------------------------------------------------------------------------------------------------


class Forgetful(torch.nn.Module):
    """A whisper whose states hang on nothing but how long it has listened to this piece: 0 … 1."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nets().whisper.model

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return (torch.arange(1500) / 1500)[None, :, None, None].expand(len(mel), -1, 5, 16)


def test_smooth_listening_closes_the_step_at_thirty_seconds(tmp_path: Path) -> None:
    vocals, net = written(tmp_path / "voice.wav", 65.0), nets()
    net.whisper = Forgetful()

    def jump(heard: Heard) -> float:
        return float(heard.tokens(0, heard.frames).diff(dim=0).abs().mean((1, 2))[3:-3].max())

    plain, smooth = hear(vocals, tmp_path / "a", net), hear(vocals, tmp_path / "b", net, smooth_listening=True)
    assert jump(smooth) < 0.3 * jump(plain)
    assert torch.equal(plain.tokens(0, 320), smooth.tokens(0, 320))  # before the first meeting they are the same


def test_up_to_thirty_seconds_there_is_nothing_to_smooth(tmp_path: Path) -> None:
    vocals = written(tmp_path / "voice.wav", 29.0)
    plain, smooth = hear(vocals, tmp_path / "a"), hear(vocals, tmp_path / "b", smooth_listening=True)
    assert all_of(plain) == all_of(smooth)


def test_batches_do_not_depend_on_where_a_run_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vocals = written(tmp_path / "voice.wav", 11.0)
    expected = hear(vocals, tmp_path / "a").tokens(0, 137)
    monkeypatch.setattr(features, "BATCH", 50)
    found = hear(vocals, tmp_path / "b").tokens(0, 137)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
