"""Sampling goes on wherever it was stopped and draws the same; it is canceled at once; its options do what they say."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))
from seeded import fill, noise, shapes_of

from vividcover.errors import Canceled, EngineError
from vividcover.portrait.sonic.config import SonicOptions, UNetConfig
from vividcover.portrait.sonic.network import SonicUNet
from vividcover.portrait.sonic.plan import Exact, Move
from vividcover.portrait.sonic.sampler import Crew, Load, Look, sample
from vividcover.portrait.sonic.store import RESULTS, Store
from vividcover.portrait.sonic.windows import Window
from vividcover.workspace import Silent

FRAMES, STEPS, TOKENS = 60, 3, 6
SMALL = UNetConfig(channels=(8, 8, 16, 16), heads=(1, 1, 2, 2), context=16, added=8, groups=4)
LOOK = Look(
    torch.from_numpy(noise("latents", 4, 8, 8)), torch.from_numpy(noise("clip", 1, SMALL.context)),
    torch.from_numpy(np.abs(noise("mask", 64, 64)).clip(0, 1)),
)  # fmt: skip


class Sung:
    """What `listen` would give: a song of which every number is known."""

    def __init__(self, frames: int = FRAMES, key: str = "song") -> None:
        self.frames, self.key, self.activity = frames, key, [10 <= i < 30 for i in range(frames)]
        self.silent_tokens = torch.from_numpy(noise("silence", TOKENS, SMALL.context))
        self.tokens = torch.from_numpy(noise("tokens", 400, TOKENS, SMALL.context))[:frames].clone()
        self.buckets = 20 + 4 * torch.from_numpy(noise("buckets", 400, 2))[:frames]

    def tokens_of(self, indices: Sequence[int], /) -> Tensor:
        return self.tokens[list(indices)]

    def buckets_of(self, indices: Sequence[int], /) -> Tensor:
        return self.buckets[list(indices)]


class Killed(BaseException):
    """Ends the work as if the process were killed: nothing is tidied up."""


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[float, str]] = []

    def progress(self, fraction: float, text: str = "") -> None:
        self.said.append((fraction, text))


class Counting:
    """A network that counts what it is asked, and may refuse."""

    def __init__(self, net: SonicUNet, refuse: Callable[[int], BaseException | None] = lambda batch: None) -> None:
        self.net, self.refuse, self.config = net, refuse, net.config
        self.calls: list[tuple[int, str]] = []  # entries of the batch; "", "keep" or "deep"

    def parameters(self) -> Any:
        return self.net.parameters()

    def hear(self, *given: Tensor) -> Any:
        return self.net.hear(*given)

    def __call__(self, x: Tensor, *given: Any, **more: Any) -> Tensor:
        batch = len(x) + more.get("twins", 0)
        if (error := self.refuse(batch)) is not None:
            raise error
        self.calls.append((batch, next((how for how in ("keep", "deep") if more.get(how) is not None), "")))
        return self.net(x, *given, **more)


def unet() -> SonicUNet:
    net = SonicUNet(SMALL)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(net)).items()})
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def nets() -> Any:
    return SimpleNamespace(unet=unet(), device=torch.device("cpu"), dtype=torch.float32)


def drawn(nets: Any, folder: Path, *, sung: Any = None, reporter: Any = None, **more: Any) -> Store:
    """`more` are options of sampling, and what `sample` takes beside them."""
    chosen = {name: more.pop(name) for name in list(more) if name in SonicOptions.__annotations__}
    options = SonicOptions(**{"steps": STEPS} | chosen)
    return sample(nets, LOOK, sung or Sung(), options, folder, reporter or Silent(), **more)


def latents(store: Store) -> Tensor:
    with store:
        return store.read(0, store.frames)


@pytest.fixture(scope="module")
def whole(nets: Any, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """What comes out when nothing disturbs it."""
    torch.set_num_threads(1)
    return latents(drawn(nets, tmp_path_factory.mktemp("whole")))


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`killing(n)`: the process dies as soon as its n-th window is written; 0: never."""
    put = Store.put

    def choose(after: int) -> None:
        left = [after]

        def put_and_die(self: Store, window: Window, found: Tensor) -> None:
            put(self, window, found)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        monkeypatch.setattr(Store, "put", put_and_die)

    return choose


def test_killed_after_every_window_it_draws_the_same(
    nets: Any, whole: Tensor, tmp_path: Path, killing: Callable[[int], None]
) -> None:
    """Nine windows: each of nine runs draws one and is killed, and none draws one again."""
    counted = copy_of(nets)
    for _ in range(9):
        killing(1)
        with pytest.raises(Killed):
            drawn(counted, tmp_path)
    reporter = Told()
    assert torch.equal(latents(drawn(counted, tmp_path, reporter=reporter)), whole)
    assert len(counted.unet.calls) == 9
    assert not reporter.notes


def copy_of(nets: Any, **how: Any) -> Any:
    """The same nets, with a network that counts."""
    return SimpleNamespace(unet=Counting(nets.unet, **how), device=nets.device, dtype=nets.dtype)


def test_killed_while_a_turn_is_merged_it_draws_the_same(nets: Any, whole: Tensor, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Dying(Exact):
        when: int = 0

        def settle(self, turns: int, first: int, given: Tensor) -> Tensor:
            if turns == self.when:
                raise Killed
            return given

    sigmas = Exact.of(SonicOptions(steps=STEPS)).sigmas
    for when in range(STEPS + 1):
        with pytest.raises(Killed):
            drawn(nets, tmp_path, plan=Dying(sigmas, when))
    assert torch.equal(latents(drawn(nets, tmp_path)), whole)


def test_a_torn_window_is_drawn_again(nets: Any, whole: Tensor, tmp_path: Path, killing: Callable[[int], None]) -> None:
    killing(5)  # the second of the second turn
    with pytest.raises(Killed):
        drawn(nets, tmp_path)
    killing(0)
    content = bytearray((tmp_path / RESULTS).read_bytes())
    size = len(content) // 3
    content[size + 1000 : 2 * size] = bytes(size - 1000)  # a power cut: of the second, only the beginning was written
    (tmp_path / RESULTS).write_bytes(content)
    counted = copy_of(nets)
    assert torch.equal(latents(drawn(counted, tmp_path)), whole)
    assert len(counted.unet.calls) == 5


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from types import SimpleNamespace
import torch
import test_sonic_sampler as t
torch.set_num_threads(1)
nets = SimpleNamespace(unet=t.unet(), device=torch.device("cpu"), dtype=torch.float32)
t.drawn(nets, Path({out!r}))
"""


def test_a_process_killed_by_the_system_loses_no_window(nets: Any, whole: Tensor, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    program = PROGRAM.format(folder=str(Path(__file__).parent), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", program])
    end = time.monotonic() + 60
    while not (out / "latents.1").exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)  # until the first turn was merged
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    counted = copy_of(nets)
    assert torch.equal(latents(drawn(counted, out)), whole)
    assert len(counted.unet.calls) < 7


def test_what_is_done_is_not_done_again(nets: Any, whole: Tensor, tmp_path: Path) -> None:
    drawn(nets, tmp_path).close()
    counted = copy_of(nets)
    assert torch.equal(latents(drawn(counted, tmp_path)), whole)
    assert not counted.unet.calls


@pytest.mark.parametrize("other", [{"seed": 1}, {"steps": 2}, {"dynamic_scale": 0.5}, {"sung": Sung(key="another")}])
def test_another_portrait_in_the_same_folder_is_begun_anew(
    nets: Any, tmp_path: Path, killing: Callable[[int], None], other: dict[str, Any]
) -> None:
    killing(2)
    with pytest.raises(Killed):
        drawn(nets, tmp_path)
    counted, reporter = copy_of(nets), Told()
    with pytest.raises(Killed):
        killing(1)
        drawn(counted, tmp_path, reporter=reporter, **other)
    assert ["begun anew" in note for note in reporter.notes] == [True]
    assert len(counted.unet.calls) == 1


# --- cancelling and failing -------------------------------------------------------------------------------------------


def test_a_cancel_is_answered_within_a_second_while_the_network_works(nets: Any, tmp_path: Path) -> None:
    working, asked = threading.Event(), []

    class User(Silent):
        def check(self) -> None:
            if working.is_set():
                asked.append(time.monotonic())
                raise Canceled

    slow = copy_of(nets, refuse=lambda batch: working.set() or time.sleep(6))  # type: ignore[func-returns-value]
    with pytest.raises(Canceled):
        drawn(slow, tmp_path, reporter=User())
    assert time.monotonic() - asked[0] < 3.0  # a second, and a busy machine's patience
    assert len(asked) == 1


def test_a_canceled_portrait_goes_on(nets: Any, whole: Tensor, tmp_path: Path) -> None:
    class User(Told):
        def progress(self, fraction: float, text: str = "") -> None:
            super().progress(fraction, text)
            if len(self.said) == 5:
                raise Canceled

    with pytest.raises(Canceled):
        drawn(nets, tmp_path, reporter=User())
    counted = copy_of(nets)
    assert torch.equal(latents(drawn(counted, tmp_path)), whole)
    assert len(counted.unet.calls) == 5


def test_an_answer_that_is_no_number_is_an_error_and_is_not_kept(nets: Any, tmp_path: Path) -> None:
    sung = Sung()
    sung.tokens[40] = float("nan")
    with pytest.raises(EngineError, match="not numbers") as raised:
        drawn(nets, tmp_path, sung=sung)
    assert "bf16 or fp32" in raised.value.hint
    store = sample_again = drawn(nets, tmp_path)  # the sound was mended
    assert bool(latents(sample_again).isfinite().all()) and store.turns == STEPS


def full(batch: int, limit: int) -> BaseException | None:
    """What a GPU says, and what a CPU does, whose memory ends."""
    if batch <= limit:
        return None
    if batch % 2:
        return RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes.")
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")


@pytest.mark.parametrize(
    ("limit", "notes", "batches"),
    [(6, ["now 2"], {6, 3}), (3, ["now 2", "now 1"], {3}), (1, ["now 2", "now 1", "one after the other"], {1})],
)
def test_where_memory_does_not_suffice_less_goes_at_once(
    nets: Any, whole: Tensor, tmp_path: Path, limit: int, notes: list[str], batches: set[int]
) -> None:
    tight, reporter = copy_of(nets, refuse=lambda batch: full(batch, limit)), Told()
    store = drawn(tight, tmp_path, load=Load(windows=5), sung=Sung(120), reporter=reporter)
    assert len(reporter.notes) == len(notes)
    assert all(part in note for part, note in zip(notes, reporter.notes, strict=True))
    assert {batch for batch, _ in tight.unet.calls} == batches
    assert latents(store).shape[0] == 120


def test_where_not_even_one_branch_fits_it_says_so(nets: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="25 frames of 64x64 px") as raised:
        drawn(copy_of(nets, refuse=lambda batch: full(batch, 0)), tmp_path)
    assert "min_resolution" in raised.value.hint


def test_a_mistake_of_ours_is_not_taken_for_a_lack_of_memory(nets: Any, tmp_path: Path) -> None:
    broken = copy_of(nets, refuse=lambda batch: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        drawn(broken, tmp_path)


# --- what goes at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [Load(windows=3), Load(windows=2, branches=2), Load(branches=1)])
def test_what_goes_through_the_network_together_does_not_matter(
    nets: Any, whole: Tensor, tmp_path: Path, load: Load
) -> None:
    counted = copy_of(nets)
    assert torch.allclose(latents(drawn(counted, tmp_path, load=load)), whole, atol=1e-4)
    assert max(batch for batch, _ in counted.unet.calls) == load.windows * load.branches


def test_who_goes_on_makes_the_same_batches(nets: Any, tmp_path: Path, killing: Callable[[int], None]) -> None:
    undisturbed = latents(drawn(nets, tmp_path / "undisturbed", load=Load(windows=2)))
    killing(1)  # of a batch of two, one is written
    with pytest.raises(Killed):
        drawn(nets, tmp_path / "killed", load=Load(windows=2))
    killing(0)
    counted = copy_of(nets)
    assert torch.equal(latents(drawn(counted, tmp_path / "killed", windows_at_once=3)), undisturbed)
    assert [batch for batch, _ in counted.unet.calls] == [6, 3] * STEPS


def test_several_that_share_the_windows_draw_the_same(nets: Any, whole: Tensor, tmp_path: Path) -> None:
    """Three that meet in one folder, as processes do."""
    barrier, made, failed = threading.Barrier(3, timeout=60), {}, []

    def work(rank: int) -> None:
        counted = copy_of(nets)
        try:
            store = drawn(counted, tmp_path, crew=Crew(rank, 3, lambda: barrier.wait() and None))
            made[rank] = latents(store), len(counted.unet.calls)
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(torch.equal(found, whole) and calls == STEPS for found, calls in made.values())
    assert len(made) == 3


# --- what the options do ----------------------------------------------------------------------------------------------


def test_a_seed_is_the_same_portrait_and_0_is_one(nets: Any, whole: Tensor, tmp_path: Path) -> None:
    assert torch.equal(latents(drawn(nets, tmp_path / "again", seed=0)), whole)
    assert (latents(drawn(nets, tmp_path / "other", seed=1)) - whole).std() > 0.3


def test_noise_is_one_draw_of_the_whole_song(nets: Any, whole: Tensor, tmp_path: Path) -> None:
    """Drawn piece by piece, it is what one draw would be: so it does not depend on the pieces."""
    noise_of_all = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(latents(drawn(nets, tmp_path, noise=noise_of_all, seed=77)), whole)


def test_a_network_in_half_precision_draws_nearly_the_same(nets: Any, whole: Tensor, tmp_path: Path) -> None:
    """Between steps the latents stay in single precision."""
    half = SimpleNamespace(unet=unet().bfloat16(), device=nets.device, dtype=torch.bfloat16)
    found = latents(drawn(half, tmp_path))
    assert found.dtype == torch.float32
    assert float((found - whole).std()) < 0.2 * float(whole.std())


def test_movement_follows_dynamic_scale(nets: Any, whole: Tensor, tmp_path: Path) -> None:
    assert (latents(drawn(nets, tmp_path / "calm", dynamic_scale=0.5)) - whole).abs().max() > 0.01
    half = Sung()
    half.buckets = half.buckets / 2
    doubled = latents(drawn(nets, tmp_path / "half", sung=half, dynamic_scale=2.0))
    assert torch.allclose(doubled, whole, atol=1e-4)


def test_straight_windows_keep_the_end_out_of_the_beginning(nets: Any, tmp_path: Path) -> None:
    """The last second is sung otherwise: in a circle the first frames change, straight they do not."""
    other = Sung(key="another end")
    other.tokens[50:] = -other.tokens[50:]
    for straight, same in ((False, False), (True, True)):
        first, second = (
            latents(drawn(nets, tmp_path / f"{name}{straight}", sung=sung, straight=straight, steps=2))
            for name, sung in (("one", Sung()), ("other", other))
        )
        assert torch.equal(first[:11], second[:11]) is same
        assert not torch.equal(first[50:], second[50:])


@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 24, 26])
def test_songs_shorter_than_a_window_or_hardly_longer(nets: Any, tmp_path: Path, frames: int, straight: bool) -> None:
    found = latents(drawn(nets, tmp_path, sung=Sung(frames), straight=straight, steps=2))
    assert found.shape == (frames, 4, 8, 8)
    assert 0.3 < float(found.std()) < 10


def test_progress_counts_up_to_the_end_and_says_what_is_left(nets: Any, tmp_path: Path) -> None:
    reporter = Told()
    drawn(nets, tmp_path, reporter=reporter)
    fractions = [fraction for fraction, _ in reporter.said]
    assert fractions == pytest.approx([k / 9 for k in range(10)])
    assert reporter.said[0][1] == "step 1 of 3"  # before the first window, which may take minutes
    assert reporter.said[5][1].startswith("step 2 of 3, ")
    assert reporter.said[-1][1] == "step 3 of 3, 0:00 left"


def test_early_looks_show_a_sung_frame_that_comes_closer(nets: Any, tmp_path: Path) -> None:
    looks: list[tuple[float, Tensor]] = []
    store = drawn(
        nets, tmp_path, steps=6, preview_every=2, on_preview=lambda how_far, found: looks.append((how_far, found))
    )
    final = latents(store)[20]  # in the middle of what is sung
    assert len(looks) == 3
    assert [how_far for how_far, _ in looks] == sorted(how_far for how_far, _ in looks)
    away = [float((found - final).std()) for _, found in looks]
    assert away[0] > away[1] > away[2]
    assert away[2] < 0.05


WHOLE = Move()


# --- plans ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs(Exact):
    """Two steps in a row, the second one with a move of its own."""

    second: Move = WHOLE
    first: Move = WHOLE

    @property
    def key(self) -> dict[str, Any]:
        return super().key | {"pairs": str((self.first, self.second))}

    @property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        return tuple((step, step + 1) for step in range(0, len(self.sigmas) - 1, 2))

    def move(self, step: int, window: Window) -> Move:
        return self.second if step % 2 else self.first


def pairs(first: Move, second: Move) -> Pairs:
    return Pairs(Exact.of(SonicOptions(steps=4)).sigmas, second, first)


def test_two_steps_in_a_row_use_the_deep_features_of_the_first(nets: Any, tmp_path: Path) -> None:
    counted = copy_of(nets)
    plan = pairs(Move(deep="keep"), Move(deep="use"))
    found = latents(drawn(counted, tmp_path / "deep", plan=plan, steps=4))
    assert [how for _, how in counted.unet.calls] == ["keep", "deep"] * 6
    plain = latents(drawn(nets, tmp_path / "plain", plan=pairs(Move(), Move()), steps=4))
    assert not torch.equal(found, plain)
    assert 0 < float((found - plain).std()) < float(plain.std())


def test_a_branch_may_be_left_out_of_the_second_step(nets: Any, tmp_path: Path) -> None:
    counted = copy_of(nets)
    without = Move(branches=("still", "voice"), deep="use")
    found = latents(drawn(counted, tmp_path, plan=pairs(Move(deep="keep"), without), steps=4))
    assert counted.unet.calls == [(1, ""), (2, "keep"), (2, "deep")] * 6  # "nothing" by itself: it keeps nothing
    assert bool(found.isfinite().all())


def test_windows_that_nobody_wants_are_left_out_and_the_plan_says_what_is_there(nets: Any, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Resting(Exact):
        def wanted(self, turn: int, window: Window) -> bool:
            return any(frame < 30 for frame in window.frames)

        def settle(self, turns: int, first: int, given: Tensor) -> Tensor:
            out = given.clone()
            out[max(30 - first, 0) :] = turns
            return out

    counted = copy_of(nets)
    plan = Resting(Exact.of(SonicOptions(steps=1)).sigmas)
    found = latents(drawn(counted, tmp_path, plan=plan, steps=1, sung=Sung(100)))
    assert len(counted.unet.calls) == 2  # of four windows
    assert bool((found[30:] == 1).all())
    assert float(found[:30].std()) > 0.3
