"""What the published pitch trackers give for weights that follow from names: `golden_pitch_*.npz`.

    python tests/oracles/make_pitch.py RVC TORCHCREPE TORCHFCPE PARSELMOUTH

RVC is a checkout of RVC-Project/Retrieval-based-Voice-Conversion-WebUI of 2023 (`infer/lib/rmvpe.py`); the other three
are unpacked wheels (torchcrepe 0.0.24, torchfcpe 0.0.4, praat-parselmouth 0.4.7; each may be in the same folder).
Needs torch, librosa and scipy. What the networks do not need (torchaudio, resampy, einops …) is stubbed, and
torchcrepe's random dither of 20 cents is held at 0. The peers' own functions run; nothing of them is kept but numbers.
"""

import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *sys.argv[1:]]
for name in (
    "torchaudio", "torchaudio.transforms", "resampy", "tqdm", "einops", "local_attention", "infer.lib.jit",
):  # fmt: skip
    sys.modules.setdefault(name, mock.MagicMock(__spec__=None))

import librosa  # noqa: E402
from seeded import fill, noise, shapes_of, signal  # noqa: E402

SECONDS = 2.0
torch.set_num_threads(1)
sound = signal(SECONDS, 16000)
FRAMES = [0, 1, 40, 77, 100, 150, 199, 200]  # of which whole saliences are kept


def filled(module, **extra):
    state = fill({k: v for k, v in shapes_of(module).items() if k not in extra})
    module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()} | extra)
    return module.eval()


def keep(name, **arrays):
    np.savez_compressed(HERE / f"golden_pitch_{name}.npz", **arrays)


def mel():
    """Rows 0, 1, the middle and the last of librosa's banks, and the banks' sums."""
    banks = {}
    for rate, n_fft, mels, low, high, htk in (
        (48000, 2048, 128, 0, None, False), (40000, 2048, 125, 0, None, False), (32000, 1024, 80, 0, None, False),
        (16000, 1024, 128, 30, 8000, True), (16000, 1024, 128, 0, 8000, False),
    ):  # fmt: skip
        bank = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mels, fmin=low, fmax=high, htk=htk)
        banks[f"{rate}_{n_fft}_{mels}_{low}_{high or 0}_{int(htk)}"] = bank[[0, 1, mels // 2, mels - 1]]
    keep("mel", **banks)


def rmvpe():
    from infer.lib.rmvpe import E2E, RMVPE, MelSpectrogram

    peer = RMVPE.__new__(RMVPE)  # its constructor reads a file
    peer.is_half, peer.device, peer.resample_kernel = False, "cpu", {}
    peer.mel_extractor = MelSpectrogram(False, 128, 16000, 1024, 160, None, 30, 8000)
    peer.model = filled(E2E(4, 1, (2, 2)))
    peer.cents_mapping = np.pad(20 * np.arange(360) + 1997.3794084376191, (4, 4))
    frames = peer.mel_extractor(torch.from_numpy(sound)[None], center=True)
    salience = peer.mel2hidden(frames)[0].numpy()
    keep(
        "rmvpe", mel=frames[0].T.numpy()[FRAMES], salience=salience[FRAMES], f0=peer.infer_from_audio(sound, 0.03),
        median=np.median(salience.max(1)), half=peer.infer_from_audio(sound, float(np.median(salience.max(1)))),
    )  # fmt: skip


def crepe():
    import torchcrepe

    torchcrepe.convert.dither = lambda cents: cents
    audio = torch.from_numpy(sound)[None]
    kept = {}
    for size in ("tiny", "full"):  # by chance: the networks, from sound to curve
        torchcrepe.infer.model, torchcrepe.infer.capacity = filled(torchcrepe.Crepe(size)), size
        some = audio if size == "tiny" else audio[:, :8000]
        frames = next(torchcrepe.preprocess(some, 16000, 160, None, "cpu", True))
        with torch.no_grad():
            kept[f"{size}_salience"] = torchcrepe.infer(frames[[i for i in FRAMES if i < len(frames)]], size).numpy()
        kept[f"{size}_f0"], kept[f"{size}_periodicity"] = official(
            torchcrepe.predict(some, 16000, 160, 50, 1100, size, batch_size=512, return_periodicity=True)
        )
    torchcrepe.load.model("cpu", "tiny")  # the published weights: what is made of what they say
    for name, hop in (("real", 160), ("mangio", 128)):
        frames = next(torchcrepe.preprocess(audio[:, :16000], 16000, hop, None, "cpu", True))
        with torch.no_grad():
            steps = (torchcrepe.infer(frames, "tiny") * 65535).round()
        kept[f"{name}_salience"] = steps.numpy().astype(np.uint16)
        said = torchcrepe.postprocess((steps / 65535).T[None].clone(), 50, 1100, return_periodicity=True)
        if name == "real":
            kept["real_f0"], kept["real_periodicity"] = official(said)
        else:  # AICoverGen stretches the path to N // 160 frames
            path, count = said[0][0].numpy(), 100
            kept["mangio_f0"] = np.interp(
                np.arange(0, len(path) * count, len(path)) / count, np.arange(len(path)), path
            )
    random = np.random.Generator(np.random.PCG64(5)).random((360, 400)).astype(np.float32) ** 40
    random[:, 200:210] = 0
    random[5, 200:205] = random[350, 205:210] = 1.0  # certain, and far apart: the path has to jump
    random /= random.sum(0)
    kept["path"] = librosa.sequence.viterbi(random, torchcrepe.decode.viterbi.transition)
    keep("crepe", **kept)


def official(said):
    """RVC's `crepe`: what it does with pitch and periodicity."""
    import torchcrepe

    f0, periodicity = torchcrepe.filter.mean(said[0], 3), torchcrepe.filter.median(said[1], 3)
    f0[periodicity < 0.1] = 0
    return f0[0].numpy(), periodicity[0].numpy()


def fcpe():
    package = types.ModuleType("torchfcpe")
    package.__path__ = [str(next(Path(p) / "torchfcpe" for p in sys.path if (Path(p) / "torchfcpe").is_dir()))]
    sys.modules["torchfcpe"] = package
    from torchfcpe.mel_extractor import Wav2MelModule
    from torchfcpe.models import CFNaiveMelPE

    net = CFNaiveMelPE(128, 360, 512, 6, 8, use_fa_norm=True, conv_only=True)
    table = {k: v for k, v in net.state_dict().items() if k in ("cent_table", "gaussian_blurred_cent_mask")}
    net = filled(net, **table)
    frames = Wav2MelModule(16000, 128, 1024, 1024, 160, 0, 8000)(torch.from_numpy(sound)[None, :, None], 16000)
    with torch.no_grad():
        salience = net(frames)[0].numpy()
    level = float(np.median(salience.max(1)))
    keep(
        "fcpe", mel=frames[0].numpy()[FRAMES], salience=salience[FRAMES], level=level, table=table["cent_table"],
        f0=net.infer(frames, threshold=0.006)[0, :, 0].numpy(),
        half=net.infer(frames, threshold=level)[0, :, 0].numpy(),
    )  # fmt: skip


def praat():
    import parselmouth

    count = len(sound) // 160
    pitch = parselmouth.Sound(sound.astype(np.float64), 16000).to_pitch_ac(
        time_step=0.01, voicing_threshold=0.6, pitch_floor=50, pitch_ceiling=1100
    )
    f0 = pitch.selected_array["frequency"]
    before = (count - len(f0) + 1) // 2
    keep(
        "pm", f0=np.pad(f0, (before, count - len(f0) - before)).astype(np.float32), start=pitch.xs()[0] - 0.01 * before
    )


if __name__ == "__main__":
    assert noise("check", 1).shape == (1,)
    for made in (mel, rmvpe, crepe, fcpe, praat):  # each writes a file
        made()
