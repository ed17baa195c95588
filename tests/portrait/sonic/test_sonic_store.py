"""A store keeps a song's latents through whatever happens, piece by piece, and takes nothing that is torn."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from vividcover.errors import StorageError
from vividcover.portrait.sonic import store as stores
from vividcover.portrait.sonic.rows import Rows
from vividcover.portrait.sonic.store import HEADER, JOURNAL, RESULTS, Layout, Store
from vividcover.portrait.sonic.windows import Window, windows

FRAMES, SHAPE = 60, (4, 2, 3)
LAYOUT = Layout(FRAMES, SHAPE)


@pytest.fixture(autouse=True)
def _short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PIECE", 16)


def latents(seed: int, count: int = FRAMES) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def begun(folder: Path, key: str = "a song", layout: Layout = LAYOUT) -> Store:
    store = Store.open(folder, key, layout)
    store.begin(latents(0, layout.frames).split(7))
    return store


def filled(store: Store, turn: int, only: int | None = None) -> list[Window]:
    """Every window's result; or those of the first `only`."""
    found = windows(store.frames, turn)
    for window in found[:only]:
        store.put(window, latents(100 * turn + window.number, len(window.frames)))
    return found


def test_a_frame_gets_the_mean_of_what_its_windows_found(tmp_path: Path) -> None:
    store = begun(tmp_path)
    assert torch.equal(store.read(0, FRAMES), latents(0))
    found = filled(store, 0)
    store.merge(found)
    results = [latents(window.number, 25) for window in found]
    total, times = torch.zeros(FRAMES, *SHAPE), torch.zeros(FRAMES, 1, 1, 1)
    for window, result in zip(found, results, strict=True):
        for place, frame in enumerate(window.frames):
            total[frame] += result[place]
            times[frame] += 1
    assert store.turns == 1
    assert set(times.flatten().tolist()) == {1.0, 2.0}
    assert torch.equal(store.read(0, FRAMES), total / times)
    assert torch.equal(store.gather((59, 0, 1, 30)), (total / times)[[59, 0, 1, 30]])


def test_a_short_song_that_fills_its_window_several_times_gets_the_mean_of_all(tmp_path: Path) -> None:
    store = begun(tmp_path, layout=Layout(7, SHAPE))
    store.merge(filled(store, 0))
    every = latents(0, 25)
    assert torch.allclose(store.read(3, 4)[0], every[[3, 10, 17, 24]].mean(0), atol=1e-6)


def test_frames_in_no_window_stay_and_the_plan_has_the_last_word(tmp_path: Path) -> None:
    store = begun(tmp_path)
    found = windows(FRAMES, 0)[:1]
    store.put(found[0], latents(5, 25))
    asked = []

    def settle(turns: int, first: int, given: Tensor) -> Tensor:
        asked.append((turns, first, len(given)))
        return given + 1.0 if first == 48 else given

    store.merge(found, settle)
    assert asked == [(1, 0, 16), (1, 16, 16), (1, 32, 16), (1, 48, 12)]
    assert torch.equal(store.read(0, 25), latents(5, 25))
    assert torch.equal(store.read(25, 48), latents(0)[25:48])
    assert torch.equal(store.read(48, 60), latents(0)[48:] + 1.0)


def test_what_was_written_is_found_again(tmp_path: Path) -> None:
    """Nothing is closed or flushed: so a killed process leaves it."""
    store = begun(tmp_path)
    filled(store, 0, only=2)
    store.remember(load={"windows": 3})
    again = Store.open(tmp_path, "a song", LAYOUT)
    assert (again.turns, again.begun_anew, again.journal.memory) == (0, "", {"load": {"windows": 3}})
    assert [again.has(window) for window in windows(FRAMES, 0)] == [True, True, False]
    result = again.result(windows(FRAMES, 0)[1])
    assert result is not None and np.array_equal(result, latents(1, 25).numpy())


def test_results_of_an_earlier_turn_do_not_count(tmp_path: Path) -> None:
    store = begun(tmp_path)
    store.merge(filled(store, 0))
    assert not any(store.has(window) for window in windows(FRAMES, 1))


@pytest.mark.parametrize("harm", ["bit", "header", "cut", "zeros", "gone"])
def test_a_torn_result_is_not_taken(tmp_path: Path, harm: str) -> None:
    store = begun(tmp_path)
    filled(store, 0)
    store.close()
    path, size = tmp_path / RESULTS, HEADER.size + 4 * LAYOUT.window
    content = bytearray(path.read_bytes())
    assert len(content) == 3 * size
    if harm == "bit":
        content[2 * size + HEADER.size + 77] ^= 4
    elif harm == "header":
        content[2 * size + 17] ^= 1
    elif harm == "zeros":
        content[2 * size :] = bytes(size)
    path.write_bytes(content[: 3 * size - 1] if harm == "cut" else content)
    if harm == "gone":
        path.unlink()
    again = Store.open(tmp_path, "a song", LAYOUT)
    expected = [False] * 3 if harm == "gone" else [True, True, False]
    assert [again.has(window) for window in windows(FRAMES, 0)] == expected
    with pytest.raises(StorageError, match="has gone"):
        again.merge(windows(FRAMES, 0))
    again.merge(filled(again, 0))
    assert again.turns == 1


def test_a_merge_that_was_killed_is_done_again_and_gives_the_same(tmp_path: Path) -> None:
    whole = begun(tmp_path / "whole")
    whole.merge(filled(whole, 0))
    store = begun(tmp_path / "killed")
    found = filled(store, 0)

    class Killed(BaseException):
        pass

    def killed(turns: int, first: int, given: Tensor) -> Tensor:
        if first == 32:
            raise Killed
        return given

    with pytest.raises(Killed):
        store.merge(found, killed)
    with pytest.raises(Killed):
        store.merge(found, wait=lambda flush: (_ for _ in ()).throw(Killed()))
    again = Store.open(tmp_path / "killed", "a song", LAYOUT)
    assert again.turns == 0
    again.merge(found)
    assert torch.equal(again.read(0, FRAMES), whole.read(0, FRAMES))


@pytest.mark.parametrize("harm", ["rows", "short", "journal", "no rows"])
def test_a_damaged_store_is_begun_anew_and_says_so(tmp_path: Path, harm: str) -> None:
    store = begun(tmp_path)
    store.merge(filled(store, 0))
    store.close()
    rows = tmp_path / "latents.1"
    if harm == "rows":
        content = bytearray(rows.read_bytes())
        content[500] ^= 1
        rows.write_bytes(content)
    elif harm == "short":
        rows.write_bytes(rows.read_bytes()[:-4])
    elif harm == "no rows":
        rows.unlink()
    else:
        (tmp_path / JOURNAL).write_text((tmp_path / JOURNAL).read_text()[:40])
    again = Store.open(tmp_path, "a song", LAYOUT)
    assert again.turns == -1
    assert "begun anew" in again.begun_anew


@pytest.mark.parametrize(("key", "layout"), [("another", LAYOUT), ("a song", Layout(61, SHAPE))])
def test_what_is_another_portraits_is_not_taken(tmp_path: Path, key: str, layout: Layout) -> None:
    filled(begun(tmp_path), 0)
    again = Store.open(tmp_path, key, layout)
    assert (again.turns, "other settings" in again.begun_anew) == (-1, True)
    again.begin(latents(9, layout.frames).split(7))
    if layout == LAYOUT:  # results of the other one lie at the same places, of the same turn
        assert not any(again.has(window) for window in windows(FRAMES, 0))


def test_only_the_latents_are_left_in_the_end(tmp_path: Path) -> None:
    store = begun(tmp_path)
    store.merge(filled(store, 0))
    store.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latents.1", JOURNAL]
    again = Store.open(tmp_path, "a song", LAYOUT)
    assert again.journal.finished
    assert again.journal.check == zlib.crc32(again.read(0, FRAMES).numpy().tobytes())


def test_a_journal_that_changed_under_way_is_an_error(tmp_path: Path) -> None:
    store = begun(tmp_path)
    text = json.loads((tmp_path / JOURNAL).read_text())
    (tmp_path / JOURNAL).write_text(json.dumps(text | {"key": "another"}))
    with pytest.raises(StorageError, match="under way"):
        store.reload()


def test_rows_are_read_and_written_anywhere(tmp_path: Path) -> None:
    with Rows(tmp_path / "rows", (2, 3), 10) as rows:
        values = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
        rows.write(6, values[6:])
        rows.write(0, values[:6])
        assert rows.count() == 10
        assert np.array_equal(rows.read(4, 8), values[4:8])
        with pytest.raises(ValueError, match="rows 9"):
            rows.write(9, values[:2])
        with pytest.raises(StorageError, match="cut short"):
            rows.read(8, 11)


def test_a_disk_without_room_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = Layout(5250, (4, 64, 64))  # seven minutes at 512 px: a gigabyte
    monkeypatch.setattr(shutil, "disk_usage", lambda where: SimpleNamespace(free=int(1.0e9)))
    with pytest.raises(StorageError, match=r"420 s needs 1\.0 GB of disk while it is made"):
        Store.open(tmp_path, "a song", long).begin(iter(()))
    begun(tmp_path)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = begun(tmp_path)

    class Full:
        def seek(self, place: int) -> None: ...
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(store._results, "_file", Full())
    with pytest.raises(StorageError, match="disk is full"):
        filled(store, 0)
