"""What every net shares: is torch there, which device, files of tensors read without running code, seeds, threads.

    if reason := available(): …                # "" when the neural engine can run
    device = pick_device("auto")
    state = read_tensors(Path("voice.pth"))    # never executes what a stranger put into the file
    check_keys(net, state, "the voice")

A `.pth` is a pickle, and a pickle can run any program. Files are therefore read with torch's restricted reader,
which rebuilds tensors and plain containers and refuses the rest. Torch is imported when it is first needed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vividcover.errors import EngineError, ModelFileError, ParameterError
from vividcover.files import aside

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Threads of torch that wait for each other spin by default; where cores are shared, that costs several times the work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MKL_DYNAMIC", "FALSE")  # as many as were asked for: else the last bits change with the load
INSTALL = "Install it with `pip install 'vividcover[neural]'`."
DEVICES = ("auto", "cuda", "mps", "cpu")
DTYPES = ("auto", "fp32", "bf16", "fp16")
SAFETENSORS_HEADER = 100_000_000  # bytes; a longer one is refused by the format itself


class Inert:
    """Stands for a class that a checkpoint names and that we do not need: keeps its state, runs nothing."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


# Classes that published checkpoints name beside tensors: fairseq's HuBERT, settings and numbers of trainers, and what
# a Demucs file says of itself (`song/separators/demucs.py` reads the fraction's arguments).
INERT = (
    "argparse.Namespace",
    "demucs.demucs.Demucs",
    "demucs.hdemucs.HDemucs",
    "demucs.htdemucs.HTDemucs",
    "fairseq.data.dictionary.Dictionary",
    "fractions.Fraction",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
)
ALLOWING = threading.Lock()  # torch keeps the list of allowed classes for the whole process


def available() -> str:
    """ "" when the neural engine can run here, else why it cannot. Does not import torch."""
    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    how = f"{INSTALL[:1].lower()}{INSTALL[1:].rstrip('.')}"  # the caller ends the sentence
    return f"the neural engine needs {' and '.join(missing)}: {how}" if missing else ""


def require() -> None:
    """Raises `EngineError` where the neural engine cannot run."""
    if reason := available():
        raise EngineError(f"This needs the neural engine, and {reason.split(':')[0]}.", INSTALL)


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first of cuda, mps, cpu that is there; a device may be named with its number (`cuda:1`)."""
    require()
    import torch

    kind = name.split(":")[0]
    if kind not in DEVICES:
        raise ParameterError(f"Unknown device {name!r}.", f"Choose one of {', '.join(DEVICES)}.")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return torch.device(next(device for device in ("cuda", "mps", "cpu") if there[device]))
    if not there[kind]:
        raise EngineError(f"This machine offers no {kind} device.", "Choose device `auto` or `cpu`.")
    return torch.device(name)


def pick_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """The number format to compute in. `auto` is bfloat16 on a CUDA device that has it in hardware, else float32."""
    import torch

    if name not in DTYPES:
        raise ParameterError(f"Unknown number format {name!r}.", f"Choose one of {', '.join(DTYPES)}.")
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise ParameterError("fp16 is not for a CPU: it is slow there and overflows.", "Choose fp32 or bf16.")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def use_threads(count: int) -> None:
    """How many threads torch computes with, in this process, from now on. The one place where it is set."""
    import torch

    torch.set_num_threads(max(1, count))


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A source of random numbers of its own; the same seed gives the same numbers on the same kind of device."""
    import torch

    return torch.Generator(device).manual_seed(seed)


# --- reading -------------------------------------------------------------------------------------------------------


def read_tensors(
    path: Path | bytes, what: str = "", inert: Iterable[str] = (), *, mapped: bool = False
) -> dict[str, Any]:
    """The contents of a file of tensors, on the CPU: `.safetensors`, or anything that `torch.save` wrote.

    `what` names the file in errors ("The voice"); `inert` are further classes, by their dotted names, that the file may
    name and that become `Inert`. `mapped`: numbers are read when they are first looked at, where the kind of file
    allows it. Raises `ModelFileError` for a file that is truncated, of another
    kind, or asks for more than tensors and plain containers; `EngineError` without torch.
    """
    require()
    name = what or (path.name if isinstance(path, Path) else "the file")
    if isinstance(path, Path) and not path.is_file():
        raise ModelFileError(f"There is no file {path}.", "Check the path.")
    with _opened(path) as file:
        start = file.read(512)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < SAFETENSORS_HEADER:
        return _read_safetensors(path, name)
    if kind := _other_kind(path, start):
        raise ModelFileError(
            f"{name} is not a file of weights: it is {kind}.", "Choose the file that holds the weights."
        )
    return _read_pickle(path, name, (*INERT, *inert), mapped)


def _opened(path: Path | bytes) -> BinaryIO:
    return io.BytesIO(path) if isinstance(path, bytes) else path.open("rb")


def _damaged(name: str, why: str) -> ModelFileError:
    return ModelFileError(
        f"{name} cannot be read as a file of weights: {why}.",
        "It is cut short, damaged, or something else than weights: get it again and compare its size with the source.",
    )


def _other_kind(path: Path | bytes, start: bytes) -> str:
    """What the file is, in words, where that is plainly not weights; else ""."""
    import filetype

    if not start.strip(b"\0"):
        return "empty"
    if start.startswith(b"version https://git-lfs"):
        return "only a Git LFS pointer to the weights, which have to be fetched (`git lfs pull`)"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page: the download failed, or the link led to a page about the file"
    if start[:4] in (b"IwFl", b"IxF2", b"IxFI", b"IHNf", b"IxPT"):
        return "a faiss index (.index), which goes beside a voice"
    if start[:2] == b"PK":
        return _kind_of_zip(path)
    kind = filetype.guess(start)
    return "" if kind is None else f"of the kind {kind.mime}"


def _kind_of_zip(path: Path | bytes) -> str:
    try:
        with _opened(path) as file, zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            packed = file.seek(0, io.SEEK_END)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return ""  # a torch file that was cut short: its reader says so
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, which is run, not read"
    if not any(name.endswith("/data.pkl") for name in names):
        inside = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        return f"a zip archive of {len(names)} other files ({inside})"
    if sum(entry.file_size for entry in entries) > 4 * packed + 64_000_000:  # torch stores, it never compresses
        return "an archive that would unpack to many times its size"
    return ""


def _mappable(path: Path | bytes) -> bool:
    """Whether a pickle's numbers lie in the file as they are in memory: not in a compressed archive, nor in the format
    from before torch 1.6."""
    if isinstance(path, bytes) or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _read_safetensors(path: Path | bytes, name: str) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        return dict(load(path) if isinstance(path, bytes) else load_file(str(path)))
    except (SafetensorError, ValueError) as error:
        raise _damaged(name, "it is not a whole safetensors file") from error


def metadata_of(path: Path | bytes) -> dict[str, str]:
    """What stands beside the tensors in a `.safetensors` file; nothing for any other file."""
    with _opened(path) as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > SAFETENSORS_HEADER:
            return {}
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return {}
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return {str(name): str(value) for name, value in (found or {}).items()}


def _read_pickle(path: Path | bytes, name: str, inert: Iterable[str], mapped: bool) -> dict[str, Any]:
    import torch

    stubs: list[Any] = [(type(dotted.rsplit(".", 1)[1], (Inert,), {}), dotted) for dotted in inert]

    try:
        with ALLOWING, warnings.catch_warnings(), torch.serialization.safe_globals(stubs), _opened(path) as file:
            warnings.simplefilter("ignore")  # on a pickle's protocol, which says nothing to a user
            source: Any = str(path) if (mapped := mapped and _mappable(path)) else file
            found = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if (asked := re.search(r"GLOBAL ([\w.]+)", str(error))) is not None:
            raise ModelFileError(
                f"{name} was not opened: besides weights it asks to load `{asked[1]}`, which could run a program.",
                "Files of weights never need that. Do not open it with other tools; ask its maker for a .safetensors.",
            ) from error
        raise _damaged(name, "it does not hold what torch writes") from error
    except Exception as error:  # a damaged pickle stream can fail in any way, and none of them is a fault of ours
        raise _damaged(name, "it does not hold what torch writes") from error
    if not isinstance(found, Mapping):
        raise _damaged(name, f"it holds a {type(found).__name__} and no named tensors")
    return dict(found)


def check_keys(module: nn.Module, tensors: Mapping[str, Any], what: str, *, assign: bool = False) -> None:
    """Loads `tensors` into `module`, all of them or none. `assign` takes them as they are, for a module on `meta`.

    Raises `ModelFileError` as `check_shapes` does; `what` names the source.
    """
    check_shapes({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}, tensors, what)
    module.load_state_dict(dict(tensors), strict=True, assign=assign)


def check_shapes(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any], what: str) -> None:
    """Raises `ModelFileError` that names what is missing, unexpected, or of another shape than wanted."""
    import torch

    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    foreign = [name for name in wanted if name in tensors and not isinstance(tensors[name], torch.Tensor)]
    shapes = [
        f"{name} is {list(tensors[name].shape)}, not {list(wanted[name])}"
        for name in wanted
        if name in tensors and name not in foreign and tuple(tensors[name].shape) != wanted[name]
    ]
    wrong = [
        f"{said} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for said, names in (("missing:", missing), ("not known:", unexpected), ("no tensor:", foreign), ("", shapes))
        if names
    ]
    if wrong:
        raise ModelFileError(
            f"{what} does not hold the weights of this network. {'; '.join(wrong).strip()}.",
            "It was made for another network or version, or changed by another program.",
        )


# --- writing -------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Writes a `.safetensors` file, whole or not at all: same contents, same bytes. Raises `StorageError`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with aside(path) as part:
        try:
            save_file(plain, str(part), dict(metadata or {}))
        except SafetensorError as error:
            if (number := re.search(r"os error (\d+)", str(error))) is not None:
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise
        with part.open("r+b") as file:
            _settle(file)
            os.fsync(file.fileno())
    return path


def _settle(file: BinaryIO) -> None:
    """Sorts the metadata, which safetensors writes in an order of chance: the same contents give the same bytes."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) == length:  # another spelling of the same text would move the tensors
            file.seek(8)
            file.write(text)


def write_torch(path: Path, content: Any) -> Path:
    """Writes with `torch.save`, whole or not at all, and waits for the disk. Raises `StorageError`."""
    import torch

    with aside(path) as part, part.open("wb") as file:
        target = _Noting(file)
        try:
            torch.save(content, target)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        except Exception:
            if target.failure is not None:  # torch turns a full disk into an error of its own
                raise target.failure from None
            raise
    return path


class _Noting:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.failure = file, None  # type: tuple[BinaryIO, OSError | None]

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()
