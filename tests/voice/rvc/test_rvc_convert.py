"""A song comes back in another voice: as long, as loud, silent where it was, the same samples every time."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import faiss
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from rvc_making import content_vec, read_pcm, signal, song, voice_file, write_pcm

from vividcover.errors import AudioError, Canceled, ModelFileError, NotFoundError, ParameterError, WeightsError
from vividcover.voice.rvc.convert import Converter, NeuralConversion, convert
from vividcover.workspace import Silent

PLAIN = NeuralConversion(method="pm", index_rate=0, rms_mix_rate=1)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Files that several tests read: a voice, ContentVec, a song with a rest of two seconds."""
    folder = tmp_path_factory.mktemp("shelf")
    voice_file(folder / "vivi.pth")
    content_vec(folder / "content.safetensors")
    samples = read_pcm(song(folder / "song.wav", 5))[0]
    samples[:, 2 * 44_100 : 4 * 44_100] = 0
    write_pcm(folder / "song.wav", samples, 44_100)
    song(folder / "short.wav", 1.2)
    return folder


@pytest.fixture(scope="module")
def weights(shelf):
    def path(name):
        if name != "contentvec":
            raise WeightsError(f"The weights {name} are not here.", f"Run `vividcover weights pull {name}`.")
        return shelf / "content.safetensors"

    return path


@pytest.fixture(scope="module")
def vivi(shelf, weights):
    return Converter(shelf / "vivi.pth", weights=weights, device="cpu", dtype="fp32")


def sung(converter, vocals, out, settings=PLAIN, **more):
    report = converter.convert(vocals, out, settings, **more)
    samples, rate = read_pcm(out)
    return samples, rate, report


def added_index(path, width=768, count=60):
    index = faiss.IndexFlatL2(width)
    index.add(np.random.default_rng(0).standard_normal((count, width), dtype=np.float32))
    faiss.write_index(index, str(path))
    return path


# --- what comes out --------------------------------------------------------------------------------------------------


def test_the_result_has_the_songs_length_rate_and_channels(vivi, shelf, tmp_path):
    samples, rate, report = sung(vivi, shelf / "song.wav", tmp_path / "out.wav")
    assert samples.shape == (2, 5 * 44_100) and rate == 44_100
    assert np.isfinite(samples).all() and np.abs(samples).max() > 0.01
    assert (samples[0] == samples[1]).all()
    assert report["song_f0_hz"]["low"] < report["song_f0_hz"]["high"]
    assert (report["voice"], report["rate"], report["dtype"]) == ("vivi", 48_000, "float32")


@pytest.mark.parametrize("block", [37, 250])
def test_the_samples_do_not_hang_on_how_much_is_made_at_a_time(vivi, shelf, tmp_path, block):
    usual, _, _ = sung(vivi, shelf / "song.wav", tmp_path / "usual.wav")
    other, _, _ = sung(vivi, shelf / "song.wav", tmp_path / "other.wav", block=block)
    assert np.abs(usual - other).max() < 2e-6


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(vivi, shelf, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        vivi.convert(shelf / "short.wav", tmp_path / name, NeuralConversion(method="pm", index_rate=0, seed=seed))
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again != other


def test_nothing_is_sung_where_the_song_is_silent(vivi, shelf, tmp_path):
    samples, _, report = sung(vivi, shelf / "song.wav", tmp_path / "out.wav")
    assert not samples[:, round(2.4 * 44_100) : round(3.6 * 44_100)].any()
    assert report["sung_s"] < 4
    always, _, report = sung(
        vivi, shelf / "song.wav", tmp_path / "out.wav", NeuralConversion(method="pm", silence_gate_db=-200)
    )
    assert always[:, round(2.4 * 44_100) : round(3.6 * 44_100)].any() and report["sung_s"] == 5


def test_a_song_of_nothing_but_silence_gives_silence_and_says_so(vivi, tmp_path):
    said = Silent()
    write_pcm(tmp_path / "in.wav", np.zeros((2, 44_100), np.float32))
    samples, _, report = sung(vivi, tmp_path / "in.wav", tmp_path / "out.wav", reporter=said)
    assert samples.shape == (2, 44_100) and not samples.any()
    assert report["song_f0_hz"] is None and "nothing to sing" in " ".join(said.notes)


@pytest.mark.parametrize(
    ("seconds", "rate", "channels"), [(0.2, 44_100, 2), (1.0, 8_000, 1), (1.0, 96_000, 2), (0.7, 22_050, 1)]
)
def test_any_length_rate_and_number_of_channels_will_do(vivi, tmp_path, seconds, rate, channels):
    song(tmp_path / "in.wav", seconds, rate, channels)
    samples, got, _ = sung(vivi, tmp_path / "in.wav", tmp_path / "out.wav", NeuralConversion(method="pm"))
    assert samples.shape == (channels, round(seconds * rate)) and got == rate
    assert samples.any()


def test_a_voice_of_every_version_and_rate_sings_with_a_pitch_and_without(weights, shelf, tmp_path):
    for version, rate, f0 in (("v1", 40_000, True), ("v2", 32_000, True), ("v2", 40_000, False)):
        if version == "v1":  # needs ContentVec's ninth layer, which the small one has not
            with pytest.raises(ModelFileError, match="v1 voice"):
                convert(shelf / "short.wav", voice_file(tmp_path / "v1.pth", "v1", rate), tmp_path / "out.wav", PLAIN,
                        weights=weights, device="cpu", dtype="fp32")  # fmt: skip
            continue
        file = voice_file(tmp_path / f"{rate}.pth", version, rate, f0=f0)
        report = convert(
            shelf / "short.wav", file, tmp_path / "out.wav", PLAIN, weights=weights, device="cpu", dtype="fp32"
        )
        assert report["rate"] == rate and report["song_f0_hz"]
        assert (report["sung_f0_hz"] is not None) == f0
        assert read_pcm(tmp_path / "out.wav")[0].any()


def test_the_loudness_follows_the_song_or_the_voice_as_rms_mix_rate_says(vivi, tmp_path):
    loud = read_pcm(song(tmp_path / "loud.wav", 5))[0]
    loud[:, : round(2.5 * 44_100)] *= 0.1
    write_pcm(tmp_path / "in.wav", loud)

    def step(samples):  # dB from the first half to the second
        parts = samples[0, 22_050:66_150], samples[0, -66_150:-22_050]
        first, second = (np.sqrt(np.mean(part**2)) for part in parts)
        return 20 * np.log10(second / first)

    like_song, _, _ = sung(vivi, tmp_path / "in.wav", tmp_path / "0", NeuralConversion(method="pm", rms_mix_rate=0))
    as_made, _, _ = sung(vivi, tmp_path / "in.wav", tmp_path / "1", NeuralConversion(method="pm", rms_mix_rate=1))
    assert abs(step(like_song) - step(loud)) < 2 < abs(step(as_made) - step(loud))


def test_bfloat16_stays_within_its_stated_error(vivi, shelf, weights, tmp_path):
    """The vocoder's convolutions in bfloat16, sums in float32: at most 2 % of the signal."""
    quick = Converter(shelf / "vivi.pth", weights=weights, device="cpu", dtype="bf16")
    exact, _, _ = sung(vivi, shelf / "short.wav", tmp_path / "a.wav")
    close, _, _ = sung(quick, shelf / "short.wav", tmp_path / "b.wav")
    error = np.sqrt(np.mean((exact - close) ** 2) / np.mean(exact**2))
    assert 1e-5 < error < 0.02


# --- what may be asked for -------------------------------------------------------------------------------------------


def test_auto_moves_by_whole_octaves_to_where_the_voice_is(shelf, weights, tmp_path):
    card = {
        "kind": "vividcover-voice",
        "engine": "neural",
        "name": "High",
        "f0_hz": {"low": 400, "median": 620, "high": 900},
    }
    with zipfile.ZipFile(tmp_path / "high.zip", "w") as archive:
        archive.write(shelf / "vivi.pth", "High.pth")
        archive.writestr("model.json", json.dumps(card))
    report = convert(
        shelf / "short.wav",
        tmp_path / "high.zip",
        tmp_path / "out.wav",
        PLAIN,
        weights=weights,
        device="cpu",
        dtype="fp32",
    )
    assert report["voice"] == "High" and report["octave"] in (1.0, 2.0) and "620 Hz" in report["octave_why"]
    assert report["sung_f0_hz"]["median"] == pytest.approx(
        report["song_f0_hz"]["median"] * 2 ** report["octave"], rel=1e-3
    )


def test_pitch_change_by_name_and_by_semitones_adds_to_the_songs_key(vivi, shelf, tmp_path):
    for change, key, wanted in (("male-to-female", 0, 12), ("no-change", -2, -2), (3.5, 1, 4.5), ("auto", 2, 2)):
        settings = NeuralConversion(pitch_change=change, semitones=key, method="pm", index_rate=0)
        assert vivi.convert(shelf / "short.wav", tmp_path / "out.wav", settings)["semitones"] == wanted


def test_every_option_changes_what_is_sung(shelf, weights, tmp_path):
    folder = tmp_path / "voice"
    folder.mkdir()
    (folder / "vivi.pth").write_bytes((shelf / "vivi.pth").read_bytes())
    added_index(folder / "added_Flat_vivi_v2.index")
    converter = Converter(folder, weights=weights, device="cpu", dtype="fp32")
    usual = {"method": "pm", "index_rate": 0.5, "protect": 0.33}
    plain, _, _ = sung(converter, shelf / "short.wav", tmp_path / "plain", NeuralConversion(**usual))
    for change in (
        {"index_rate": 1.0}, {"protect": 0.1}, {"filter_radius": 7}, {"rms_mix_rate": 0.9}, {"formant": 3.0},
        {"autotune": 1.0}, {"unvoiced": "interpolate"}, {"speaker": 1}, {"method": "harvest"}, {"noise_scale": 0.0},
        {"pitch_change": "male-to-female"}, {"semitones": 2.0}, {"parity": True},
    ):  # fmt: skip
        other, _, _ = sung(converter, shelf / "short.wav", tmp_path / "other", NeuralConversion(**usual | change))
        assert other.shape == plain.shape and np.abs(other - plain).max() > 1e-3, change


def test_one_loaded_voice_sings_many_songs_as_each_would_be_alone(vivi, shelf, weights, tmp_path):
    song(tmp_path / "one.wav", 1, seed=1), song(tmp_path / "two.wav", 1.5, seed=2)
    for name in ("one", "two"):
        vivi.convert(tmp_path / f"{name}.wav", tmp_path / f"{name}-out.wav", PLAIN)
        convert(tmp_path / f"{name}.wav", shelf / "vivi.pth", tmp_path / "alone.wav", PLAIN, weights=weights,
                device="cpu", dtype="fp32")  # fmt: skip
        assert (tmp_path / f"{name}-out.wav").read_bytes() == (tmp_path / "alone.wav").read_bytes()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_voice_without_an_index_sings_and_says_so(vivi, shelf, tmp_path):
    said = Silent()
    settings = NeuralConversion(method="pm", index_rate=0.5)
    vivi.convert(shelf / "short.wav", tmp_path / "out.wav", settings, reporter=said)
    assert "without an index" in " ".join(said.notes)


def test_an_index_of_another_voice_is_refused(shelf, weights, tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "vivi.pth").write_bytes((shelf / "vivi.pth").read_bytes())
    added_index(tmp_path / "v" / "added_x.index", width=256)
    with pytest.raises(ModelFileError, match="256 numbers; this voice needs 768"):
        convert(shelf / "song.wav", tmp_path / "v", tmp_path / "out.wav", weights=weights, device="cpu")
    assert not (tmp_path / "out.wav").exists()


def test_what_was_asked_for_and_cannot_be_is_named(vivi, shelf, weights, tmp_path):
    for wrong, said in (
        ({"speaker": 4}, "no speaker 4"), ({"index_rate": 1.5}, "index_rate is 1.5"), ({"method": "ears"}, "'ears'"),
        ({"pitch_change": "higher"}, "'higher'"), ({"protect": 0.6}, "protect is 0.6"), ({"formant": 20}, "formant"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=said):
            vivi.convert(shelf / "song.wav", tmp_path / "out.wav", NeuralConversion(**{"method": "pm"} | wrong))
    with pytest.raises(WeightsError, match="rmvpe"):
        vivi.convert(shelf / "song.wav", tmp_path / "out.wav", NeuralConversion(method="rmvpe"))
    with pytest.raises(NotFoundError, match="no voice model"):
        convert(shelf / "song.wav", tmp_path / "nowhere.pth", tmp_path / "out.wav", weights=weights)
    write_pcm(tmp_path / "empty.wav", np.zeros((2, 0), np.float32))
    with pytest.raises(AudioError, match="no samples"):
        vivi.convert(tmp_path / "empty.wav", tmp_path / "out.wav", PLAIN)
    assert not (tmp_path / "out.wav").exists()


def test_who_stops_a_song_leaves_nothing_behind(vivi, shelf, tmp_path):
    class Impatient(Silent):
        def progress(self, fraction, text=""):
            if fraction > 0.4:
                raise Canceled

    before = set(tmp_path.iterdir())
    with pytest.raises(Canceled):
        vivi.convert(shelf / "song.wav", tmp_path / "out.wav", PLAIN, reporter=Impatient())
    assert set(tmp_path.iterdir()) == before


def test_memory_does_not_grow_with_the_song(shelf, tmp_path):
    """The peak of a process that sings a minute is that of one that sings 20 s, within 5 %."""
    program = (
        "import re, sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from vividcover.memory import settle; settle()\n"
        "from vividcover.voice.rvc.convert import Converter, NeuralConversion\n"
        "voice = Converter(Path(sys.argv[1]), weights=lambda _: Path(sys.argv[2]), device='cpu', dtype='fp32')\n"
        "voice.convert(Path(sys.argv[3]), Path(sys.argv[4]), NeuralConversion(method='pm'))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    if not Path("/proc/self/status").exists():
        return  # where the peak of a process cannot be read
    peaks = []
    for seconds in (20, 60):
        write_pcm(tmp_path / "in.wav", np.tile(signal(5, 16_000), seconds // 5), 16_000)
        files = (shelf / "vivi.pth", shelf / "content.safetensors", tmp_path / "in.wav", tmp_path / "out.wav")
        done = subprocess.run([sys.executable, "-c", program, *map(str, files)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.05 * peaks[0]
