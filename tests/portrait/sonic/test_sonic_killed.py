"""A portrait that is killed goes on to the same video, and its memory does not depend on the song's length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vividcover.settings import settings
from vividcover.song.pcm import PcmWriter

TESTS = Path(__file__).parents[2]
PHOTO = TESTS.parent / "sample" / "photos" / "01.jpg"
OPENED = """
import itertools, json, os, resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
torch.set_num_threads(1)
from sonic_making import tiny_sonic_files
from vividcover.memory import settle
from vividcover.portrait.faces import FaceKit
from vividcover.portrait.sonic import tail
from vividcover.portrait.sonic.config import SonicOptions
from vividcover.portrait.sonic.files import sonic_files
from vividcover.portrait.sonic.opening import open_sonic
from vividcover.portrait.sonic.renderer import portrait
from vividcover.portrait.sonic.store import Store

class Tiny:
    def path(self, name):
        return tiny_sonic_files()[name]

settle()  # as a workspace does
sonic = open_sonic(sonic_files(Tiny()), device="cpu", dtype="fp32")
photo, vocals, folder, steps = Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5])

def make(work, out, options=SonicOptions(steps=steps, seed=7)):
    return portrait(photo, vocals, out, sonic=sonic, kit=FaceKit(), work=work, options=options, min_resolution=64)
"""
KILLED = (
    OPENED
    + """
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(function):
    def called(*arguments, **more):
        function(*arguments, **more)
        die()
    return called

def drawn(count):
    def frames(*arguments, **more):
        for number, rgb in enumerate(real(*arguments, **more)):
            if number == count:
                die()
            yield rgb
    return frames

put, commit, real = Store.put, Store._commit, tail.frames
DEATHS = {
    "a window's result is there": (Store, "put", after(put)),
    "frames are merged, and the journal does not say so yet": (Store, "_commit", die),
    "the journal says that a turn is done": (Store, "_commit", after(commit)),
    "the first frame was drawn": (tail, "frames", drawn(1)),
    "most frames were drawn": (tail, "frames", drawn(40)),
}

def killed(how):
    child = os.fork()
    if child == 0:
        setattr(*DEATHS[how])
        make(folder / "killed", folder / "killed.mp4")
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

sonic.unet, sonic.vae, sonic.rife, sonic.whisper, sonic.key, sonic.clip(np.zeros((64, 64, 3), np.uint8))
often = {how: 0 for how in DEATHS}
*sampling, first, most = DEATHS
for how in itertools.cycle(sampling):
    if not killed(how):
        break
    often[how] += 1
for how in (first, most):
    often[how] += killed(how)
make(folder / "killed", folder / "killed.mp4")
make(folder / "straight", folder / "straight.mp4")
print(json.dumps({"often": often, "left": sorted(path.name for path in folder.iterdir())}))
"""
)
MEASURED = (
    OPENED
    + """
def megabytes(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) / 1024

def began(*arguments):
    begin(*arguments)
    open("/proc/self/clear_refs", "w").write("5")  # forgets the peak so far, which is that of loading CLIP

begin, Store.begin = Store.begin, began
told = {"frames": make(folder / "work", folder / "out.mp4")["frames"]}
print(json.dumps(told | {"peak": megabytes("VmHWM")}))
"""
)


def run(script: str, vocals: Path, folder: Path, steps: int) -> Any:
    folder.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "VIVIDCOVER_WEIGHTS_DIR": str(settings().weights)}
    command = [sys.executable, "-c", script, str(TESTS), str(PHOTO), str(vocals), str(folder), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def song(path: Path, seconds: float) -> Path:
    rate, random = 16_000, np.random.default_rng(0)
    with PcmWriter(path, rate, 1) as out:
        for _ in range(round(seconds * 10)):
            out.write(0.1 * random.standard_normal((1, rate // 10)))
    return path


def test_a_portrait_killed_at_every_window_and_while_it_is_shown_becomes_the_same_video(tmp_path: Path) -> None:
    told = run(KILLED, song(tmp_path / "v.wav", 2.4), tmp_path / "work", 2)  # 30 frames: two windows, two steps
    assert list(told["often"].values()) == [2, 2, 2, 1, 1]
    assert (tmp_path / "work" / "killed.mp4").read_bytes() == (tmp_path / "work" / "straight.mp4").read_bytes()


@pytest.mark.slow
def test_a_minute_takes_as_much_memory_as_four_seconds(tmp_path: Path) -> None:
    """From the first step to the last frame. 1500 frames as they are decoded would be 74 MB, a tenth."""
    short, long = (run(MEASURED, song(tmp_path / f"{s}.wav", s), tmp_path / str(s), 1) for s in (4, 60))
    assert (short["frames"], long["frames"]) == (100, 1500)
    assert long["peak"] < 1.05 * short["peak"], (short, long)
