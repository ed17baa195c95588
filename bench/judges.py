"""The judges: who is heard, what is understood, whether the lips follow. Runs in the judges' own environment.

    .venv-judges/bin/python bench/judges.py similarity CONVERTED.wav [MORE…] --to TARGET_1.flac TARGET_2.flac
    .venv-judges/bin/python bench/judges.py words AUDIO.wav --text "what is said or sung" [--reference CLEAN.wav]
    .venv-judges/bin/python bench/judges.py words A.wav B.wav C.wav --text "…" --reference CLEAN.wav   (a list back)
    .venv-judges/bin/python bench/judges.py lips VIDEO.mp4 --audio VOCALS.wav [--curves out.npz] [--seconds 10]
    .venv-judges/bin/python bench/judges.py portrait VIDEO.mp4 --audio VOCALS.wav [--still FACE.png]
    .venv-judges/bin/python bench/judges.py batch < jobs.json > answers.json          (many questions, one start)

Each prints one JSON object (for several AUDIOs and for `batch`, a list). Nothing here imports vividcover: the nets
and models are other ones than those the engines use (bench/judges-requirements.txt). Audio: what libsndfile reads (wav,
also the program's float working files, flac, ogg, mp3). `batch` reads a list like
`[{"judge": "similarity", "clips": [...], "to": [...]}, {"judge": "words", "audio": "...", "text": "...",
"reference": "..."}, {"judge": "lips", "video": "...", "audio": "..."}]` and loads each net once.

similarity  GE2E speaker encoder (resemblyzer; Wan et al. 2018, arXiv:1710.10467), cosine of the two sets' mean vectors:
            1 = the same voice. Trained on speech: sung clips lie lower, and pitch weighs in. `pairs`: mean, min, max.
words       pocketsphinx, en-us (trained on natural speech at 16 kHz; singing and vocoders cost it much, so look at
            "before" beside "after"). Accuracies are 1 - edit distance / length: at most 1, negative when noise makes it
            insert more than it finds; the lengths are given so that results can be pooled.
              word_accuracy   against the text; the recogniser knows the text's vocabulary only, every word as likely as
                              any other in any order (a uniform unigram model): the robust one for sung and converted
                              speech; chance is about 0 from ten different words on
              phone_accuracy  a free phone loop against the dictionary's phones for the text: the hardest
              phone_accuracy_to_reference   the free phone decode against the CLEAN reference's own free decode: what
                              processing changed, needs no text
              frame_agreement share of 10 ms frames, where the reference speaks, that decode to the same phone within
                              30 ms (for processing that keeps timing): the least jumpy of all, best for tuning
lips        mediapipe's face mesh with attention on each frame on its own (no tracking): openness = distance of the
            inner lips (13-14) / face height (10-152). Pearson r against the vocals' level per frame, in dB (floor
            -50 dB below the loudest) and as rms, for lags -6..6 frames; lag > 0 = the lips come after the sound. Gaps
            are >= 0.4 s below -45 dB, from 0.24 s after they begin: gap_movement = (p95 - p5 of openness in gaps) /
            (same, singing); 0 = perfectly still. r_…_outside_gaps leaves these gaps out: silence is easy. faces_lost
            counts frames without a face.
portrait    lips, and how the video holds up: chance, gaps, drift, flicker, background, length (judges_portrait.py).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GLOG_minloglevel", "3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")  # of the judges' own libraries; the answer is on stdout

import numpy as np  # noqa: E402

SPEECH_RATE = 16_000  # Hz, of the recogniser and the speaker encoder
FRAME = 0.01  # s, of the recogniser
TOLERANCE = 3  # frames of 10 ms by which a phone may be shifted
LAGS = range(-6, 7)  # frames of the video
FLOOR_DB, SILENT_DB = -50.0, -45.0  # relative to the loudest video frame
GAP_SECONDS, SETTLE_SECONDS = 0.4, 0.24
UPPER_LIP, LOWER_LIP, FOREHEAD, CHIN = 13, 14, 10, 152  # points of the face mesh


def read_audio(path: str | Path, rate: int) -> np.ndarray:
    """Mono float32 [samples] at `rate` Hz."""
    import soundfile
    import soxr

    signal, was = soundfile.read(str(path), dtype="float32", always_2d=True)
    return soxr.resample(signal.mean(axis=1), was, rate) if was != rate else signal.mean(axis=1)


# --- similarity --------------------------------------------------------------------------------------------------


@lru_cache
def _encoder() -> Any:
    import torch
    from resemblyzer import VoiceEncoder

    torch.set_num_threads(1)
    return VoiceEncoder("cpu", verbose=False)


@lru_cache(maxsize=512)
def _embedding(path: str) -> np.ndarray:
    from resemblyzer import preprocess_wav

    wav = preprocess_wav(read_audio(path, SPEECH_RATE), source_sr=SPEECH_RATE)
    if len(wav) < SPEECH_RATE // 2:
        raise SystemExit(f"{path}: less than half a second of voice to judge")
    return _encoder().embed_utterance(wav)


def similarity(clips: list[str], to: list[str]) -> dict[str, Any]:
    """Cosine of the mean speaker vectors of two sets of clips, and of the single pairs."""
    a, b = (np.stack([_embedding(str(p)) for p in paths]) for paths in (clips, to))
    pairs = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    x, y = a.mean(axis=0), b.mean(axis=0)
    return {
        "similarity": round(float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)), 4),
        "pairs": {"mean": _r(pairs.mean()), "min": _r(pairs.min()), "max": _r(pairs.max())},
        "clips": len(clips),
        "to": len(to),
    }


# --- words -------------------------------------------------------------------------------------------------------


def edit_distance(wanted: list[str], heard: list[str]) -> int:
    """Levenshtein: the fewest substitutions, deletions and insertions from one to the other."""
    row = list(range(len(heard) + 1))
    for i, w in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, h in enumerate(heard, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (w != h))
    return row[-1]


def accuracy(wanted: list[str], heard: list[str]) -> float:
    """1 - edit distance / length, rounded; 1 = all there, negative when more is inserted than found."""
    return round(1 - edit_distance(wanted, heard) / max(len(wanted), 1), 4)


def agreement(wanted: list[str], heard: list[str], tolerance: int = TOLERANCE) -> float:
    """Share of frames with a phone (not silence) for which `heard` has it within `tolerance` frames."""
    near = (slice(max(i - tolerance, 0), i + tolerance + 1) for i in range(len(wanted)))
    found = [phone in heard[around] for phone, around in zip(wanted, near) if phone != "SIL"]
    return round(float(np.mean(found)), 4) if found else 0.0


def _plain(phone: str) -> str:
    return "SIL" if phone.startswith("+") or phone == "SIL" else re.sub(r"\d", "", phone)


def _decoder(**options: Any) -> Any:
    from pocketsphinx import Decoder, get_model_path

    return Decoder(hmm=get_model_path("en-us/en-us"), loglevel="FATAL", **options)


def _pcm(path: str | Path) -> bytes:
    """16-bit samples of a clip brought to one level (peak -6 dBFS), with a quarter second of quiet around it."""
    signal = read_audio(path, SPEECH_RATE)
    signal = np.pad(signal * (0.5 / max(float(np.abs(signal).max()), 1e-6)), SPEECH_RATE // 4)
    noise = np.random.default_rng(0).normal(0, 1e-4, len(signal))  # digital silence upsets the noise estimate
    return (np.clip(signal + noise, -1, 1) * 32767).astype("<i2").tobytes()


def _decode(decoder: Any, audio: bytes) -> list[tuple[str, int, int]]:
    """Segments (name, first frame, last frame)."""
    decoder.start_utt()
    decoder.process_raw(audio, full_utt=True)
    decoder.end_utt()
    return [(s.word, s.start_frame, s.end_frame) for s in decoder.seg() or []]


@lru_cache
def _phone_decoder() -> Any:
    from pocketsphinx import get_model_path

    return _decoder(allphone=get_model_path("en-us/en-us-phone.lm.bin"), lw=2.0, beam=1e-20, pbeam=1e-20)


@lru_cache(maxsize=512)
def free_phones(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a free phone loop hears: the phones in order, and one label for each 10 ms."""
    segments = [(_plain(p), a, b) for p, a, b in _decode(_phone_decoder(), _pcm(path))]
    labels = ["SIL"] * (max((b for _, _, b in segments), default=0) + 1)
    for phone, first, last in segments:
        labels[first : last + 1] = [phone] * (last + 1 - first)
    return tuple(p for p, _, _ in segments if p != "SIL"), tuple(labels)


@lru_cache(maxsize=64)
def _word_decoder(vocabulary: tuple[str, ...]) -> Any:
    """Knows these words only, all equally likely at any place (ARPA unigram model)."""
    from pocketsphinx import get_model_path

    even = -math.log10(len(vocabulary) + 1)
    grams = ["-99 <s>", *(f"{even:.5f} {word}" for word in ("</s>", *vocabulary))]
    with tempfile.NamedTemporaryFile("w", suffix=".lm") as file:
        file.write("\n".join(["\\data\\", f"ngram 1={len(grams)}", "", "\\1-grams:", *grams, "", "\\end\\", ""]))
        file.flush()
        return _decoder(dict=get_model_path("en-us/cmudict-en-us.dict"), lm=file.name)


@lru_cache
def _dictionary() -> dict[str, list[str]]:
    from pocketsphinx import get_model_path

    lines = Path(get_model_path("en-us/cmudict-en-us.dict")).read_text().splitlines()
    return {parts[0]: parts[1:] for parts in (line.split() for line in lines) if parts}


def words(audio: str, text: str, reference: str | None = None) -> dict[str, Any]:
    """How much of a known text, or of a clean reference, is still understood."""
    answer: dict[str, Any] = {"audio": str(audio)}
    phones, labels = free_phones(str(audio))
    if text:
        said = re.findall(r"[a-z']+", text.lower())
        known = [w for w in said if w in _dictionary()]
        decoder = _word_decoder(tuple(sorted(set(known))))
        heard = [re.sub(r"\(\d+\)", "", w) for w, _, _ in _decode(decoder, _pcm(audio)) if not w.startswith(("<", "["))]
        spelled = [re.sub(r"\d", "", p) for w in known for p in _dictionary()[w]]
        answer |= {
            "word_accuracy": accuracy(known, heard), "words": len(known), "heard": " ".join(heard),
            "unknown_words": sorted(set(said) - set(known)),
            "phone_accuracy": accuracy(spelled, list(phones)), "phones": len(spelled),
        }  # fmt: skip
    if reference:
        clean, clean_labels = free_phones(str(reference))
        answer |= {
            "phone_accuracy_to_reference": accuracy(list(clean), list(phones)), "reference_phones": len(clean),
            "frame_agreement": agreement(list(clean_labels), list(labels)),
        }  # fmt: skip
    return answer


# --- lips --------------------------------------------------------------------------------------------------------


def face_mesh() -> Any:
    """The mesh that looks at each picture on its own."""
    import mediapipe

    return mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.5
    )


def lips_openness(video: str, seconds: float | None = None) -> tuple[np.ndarray, float]:
    """Openness of the mouth per frame [frames] in face heights (nan where no face is found), and frames per second."""
    import cv2

    source = cv2.VideoCapture(str(video))
    fps = source.get(cv2.CAP_PROP_FPS)
    if not fps:
        raise SystemExit(f"{video}: not a video that can be read")
    opened: list[float] = []
    with face_mesh() as mesh:
        while seconds is None or len(opened) < seconds * fps:
            more, frame = source.read()
            if not more:
                break
            faces = mesh.process(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).multi_face_landmarks
            opened.append(_openness(faces[0].landmark, frame.shape) if faces else float("nan"))
    return np.array(opened), float(fps)


def _openness(points: Any, shape: tuple[int, ...]) -> float:
    def between(a: int, b: int) -> float:
        dx, dy = (points[a].x - points[b].x) * shape[1], (points[a].y - points[b].y) * shape[0]
        return float(np.hypot(dx, dy))

    return between(UPPER_LIP, LOWER_LIP) / max(between(FOREHEAD, CHIN), 1e-6)


def levels(signal: np.ndarray, rate: int, fps: float, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The level during each video frame: rms [frames], and dB below the loudest [frames] with its floor."""
    edges = np.round(np.arange(frames + 1) / fps * rate).astype(int)
    padded = np.pad(signal, (0, max(edges[-1] - len(signal), 0))).astype(np.float64)
    energy = np.concatenate([[0.0], np.cumsum(padded**2)])
    rms = np.sqrt((energy[edges[1:]] - energy[edges[:-1]]).clip(0) / np.diff(edges))
    db = 20 * np.log10(np.maximum(rms / max(rms.max(), 1e-9), 10 ** (FLOOR_DB / 20)))
    return rms, db


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r over the places where both are finite; 0 where one does not move."""
    good = np.isfinite(a) & np.isfinite(b)
    if good.sum() < 3 or a[good].std() < 1e-9 or b[good].std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a[good], b[good])[0, 1])


def best_lag(moved: np.ndarray, level: np.ndarray) -> tuple[int, list[float]]:
    """The lag in frames (> 0: `moved` comes after `level`) with the highest r, and r at every lag of LAGS."""
    n = len(moved)
    r = [correlation(moved[max(k, 0) : n + min(k, 0)], level[max(-k, 0) : n - max(k, 0)]) for k in LAGS]
    return max(LAGS, key=lambda lag: (round(r[LAGS.index(lag)], 6), -abs(lag))), r


def gap_frames(db: np.ndarray, fps: float) -> np.ndarray:
    """True where nobody has sung for long enough that the mouth should be at rest [frames]."""
    quiet, gaps = db < SILENT_DB, np.zeros(len(db), bool)
    start = 0
    for i in range(len(quiet) + 1):
        if i == len(quiet) or not quiet[i]:
            if i - start >= GAP_SECONDS * fps:
                gaps[start + (round(SETTLE_SECONDS * fps) if start else 0) : i] = True
            start = i + 1
    return gaps


def lips(video: str, audio: str, curves: str | None = None, seconds: float | None = None) -> dict[str, Any]:
    """Whether the mouth of the video follows the voice in `audio`."""
    opened, fps = lips_openness(video, seconds)
    rate = 16_000
    rms, db = levels(read_audio(audio, rate), rate, fps, len(opened))
    if curves:
        np.savez(curves, openness=opened, rms=rms, db=db, fps=fps)
    return {"video": str(video), "fps": fps} | judge_curves(opened, rms, db, fps)


def judge_curves(opened: np.ndarray, rms: np.ndarray, db: np.ndarray, fps: float) -> dict[str, Any]:
    """Figures from the curves alone: see the head of this file."""
    lag_db, r_db = best_lag(opened, db)
    lag_rms, r_rms = best_lag(opened, rms)
    found, gaps = np.isfinite(opened), gap_frames(db, fps)
    sung = np.where(gaps, np.nan, opened)
    singing = found & (db >= SILENT_DB)
    spread = [_spread(opened[where & found]) for where in (gaps, singing)]
    return {
        "frames": len(opened), "faces_lost": int((~found).sum()),
        "r_db": _r(r_db[LAGS.index(0)]), "r_rms": _r(r_rms[LAGS.index(0)]),
        "r_db_outside_gaps": _r(correlation(sung, db)), "r_rms_outside_gaps": _r(correlation(sung, rms)),
        "best_lag_db": lag_db, "best_lag_rms": lag_rms, "best_r_db": _r(max(r_db)), "best_r_rms": _r(max(r_rms)),
        "lags": list(LAGS), "r_db_at_lags": [_r(x) for x in r_db], "r_rms_at_lags": [_r(x) for x in r_rms],
        "gap_frames": int((gaps & found).sum()), "gap_spread": _r(spread[0]), "singing_spread": _r(spread[1]),
        "gap_movement": _r(spread[0] / spread[1]) if gaps.any() and spread[1] > 0 else None,
        "gap_openness": _r(np.mean(opened[gaps & found])) if (gaps & found).any() else None,
        "singing_openness": _r(np.mean(opened[singing])) if singing.any() else None,
    }  # fmt: skip


def _spread(values: np.ndarray) -> float:
    return float(np.ptp(np.percentile(values, [5, 95]))) if len(values) else 0.0


def portrait(**job: Any) -> dict[str, Any]:
    """Sync, drift, flicker and length of a whole video: see judges_portrait.py."""
    import judges_portrait

    return judges_portrait.portrait(**job)


# --- the door ----------------------------------------------------------------------------------------------------


def _r(value: Any) -> float:
    return round(float(value), 4)


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """One question: {"judge": "similarity" | "words" | "lips", …its arguments}."""
    judge = {"similarity": similarity, "words": words, "lips": lips, "portrait": portrait}[job["judge"]]
    return judge(**{k: v for k, v in job.items() if k != "judge"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("similarity")
    one.add_argument("clips", nargs="+")
    one.add_argument("--to", nargs="+", required=True)
    two = commands.add_parser("words")
    two.add_argument("audio", nargs="+")
    two.add_argument("--text", default="", help="the text, or @FILE that holds it")
    two.add_argument("--reference", help="the clean recording before processing")
    three = commands.add_parser("lips")
    three.add_argument("video")
    three.add_argument("--audio", required=True)
    three.add_argument("--curves", help="write openness, rms, db as .npz")
    three.add_argument("--seconds", type=float)
    four = commands.add_parser("portrait")
    four.add_argument("video")
    four.add_argument("--audio", required=True)
    four.add_argument("--still", help="the picture that sings, whose mouth is at rest")
    four.add_argument("--curves", help="write openness, rms, db, light, sharpness as .npz")
    four.add_argument("--seconds", type=float)
    commands.add_parser("batch")
    given = parser.parse_args()
    answer: Any
    if given.command == "similarity":
        answer = similarity(given.clips, given.to)
    elif given.command == "words":
        text = Path(given.text[1:]).read_text() if given.text.startswith("@") else given.text
        answers = [words(a, text, given.reference) for a in given.audio]
        answer = answers[0] if len(answers) == 1 else answers
    elif given.command == "lips":
        answer = lips(given.video, given.audio, given.curves, given.seconds)
    elif given.command == "portrait":
        answer = portrait(**{k: v for k, v in vars(given).items() if k != "command"})
    else:
        answer = [ask(job) for job in json.load(sys.stdin)]
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
