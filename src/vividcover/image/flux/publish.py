"""A trained LoRA to a repository on Hugging Face: private unless it is said otherwise, and checked after it arrived.

    published = publish(Path("vivi.tar"), "me/vivi-flux", token, reporter=reporter)
    published.url

What goes up: the LoRA, its settings, samples, and a model card made of `model.json`. What does not: captions, photos
and the consent statement, which are nobody else's business. Large files go first, without being part of anything; the
commit that makes them visible comes last, so that a canceled or broken upload leaves the repository as it was.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vividcover.errors import EngineError, ForbiddenError, NotFoundError, ParameterError
from vividcover.image.flux.package import FOLDER, FORMAT, HINT, LORA, SETTINGS, members_of, read_package
from vividcover.patience import Patient
from vividcover.trained import read_card
from vividcover.weights.licences import licence_of
from vividcover.workspace import Reporter, Silent

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB = "https://huggingface.co"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
FILE, README = "lora.safetensors", "README.md"
TOKEN = f"Set VIVIDCOVER_HF_TOKEN to a token with write permission ({HUB}/settings/tokens)."
MOST_SAMPLES = 12
LICENCES: Mapping[str, Mapping[str, str]] = {
    "dev": {
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": f"{HUB}/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
        "base_model": "black-forest-labs/FLUX.1-dev",
    },
    "schnell": {"license": "apache-2.0", "base_model": "black-forest-labs/FLUX.1-schnell"},
}


@dataclass(frozen=True)
class Published:
    """Where it is: the repository's page, the commit, the files in it, and whether only its owner sees it."""

    url: str
    revision: str
    files: tuple[str, ...]
    private: bool


def publish(
    package: Path, repository: str, token: str, *, private: bool = True, samples: bool = True, endpoint: str = HUB,
    reporter: Reporter | None = None,
) -> Published:  # fmt: skip
    """Uploads a trained model's tar, or any LoRA file, as a repository `owner/name`, which is made if need be.

    Raises `ParameterError` (no repository name; it exists and is public, where `private` was asked for), `EngineError`
    (no token, it is refused, the hub cannot be reached or has something else than was sent), `NotFoundError` (no such
    owner), `ForbiddenError` (may not write there), `ModelFileError`, `Canceled`.
    """
    reporter = reporter or Silent()
    if not REPOSITORY.fullmatch(repository):
        raise ParameterError(f"{repository!r} is no repository's name.", "Give owner/name, as on Hugging Face.")
    if not token:
        raise EngineError("Copying a model to Hugging Face needs a token.", TOKEN)
    files = contents(Path(package), samples=samples)
    api = _api(endpoint, token)
    with _hub_errors(repository), Patient(reporter) as patient:
        shut = patient.call(_repository, api, repository, private)
        if not shut and private:
            raise ParameterError(
                f"{repository} exists on Hugging Face and is public, and nothing was uploaded.",
                "Choose another name, make it private there, or say that the model may be public.",
            )
        if shut and not private:
            reporter.note(f"{repository} exists on Hugging Face and is private; it stays so until you change it there.")
        reporter.progress(0.05, "uploading")
        revision = _upload(api, patient, repository, files)
        reporter.progress(0.95, "checking what arrived")
        patient.call(_verify, api, repository, revision, files[FILE])
    return Published(f"{endpoint}/{repository}", revision, tuple(sorted(files)), shut)


def contents(package: Path, *, samples: bool = True) -> dict[str, bytes]:
    """The files of the repository, by their paths in it. A LoRA that is not ours is read first, whole.

    Raises `ModelFileError`.
    """
    card = read_card(package, "image", HINT)
    if card.get("format") != FORMAT:
        lora, card = read_package(package)
        card = {"base": lora.base, "rank": lora.rank, **card}
    packed = members_of(package)
    files = {FILE: packed.pop(LORA, None) or _lora_bytes(package, packed)}
    if SETTINGS in packed:
        files["config.yaml"] = packed[SETTINGS]
    pictures = [name for name in sorted(packed) if name.startswith(f"{FOLDER}/samples/")]
    for name in pictures[: MOST_SAMPLES if samples else 0]:
        files[f"images/{PurePosixPath(name).name}"] = packed[name]
    files[README] = model_card(card, [name for name in files if name.startswith("images/")]).encode()
    return files


def _lora_bytes(package: Path, packed: Mapping[str, bytes]) -> bytes:
    """The LoRA of a package that others laid out, or the bare file."""
    found = [data for name, data in packed.items() if name.endswith(".safetensors")]
    return found[0] if found else package.read_bytes()


def model_card(card: Mapping[str, Any], images: list[str]) -> str:
    """README.md: what Hugging Face's page and its search read, then what a person wants to know."""
    base = "schnell" if card.get("base") == "schnell" else "dev"
    name, trigger = str(card.get("name") or "LoRA"), str(card.get("trigger_word") or "")
    front: dict[str, Any] = {
        **LICENCES[base], "pipeline_tag": "text-to-image", "library_name": "diffusers",
        "tags": ["flux", "lora", "diffusers", "text-to-image", "template:sd-lora", "vividcover"],
    }  # fmt: skip
    if trigger:
        front["instance_prompt"] = trigger
    if images:
        front["widget"] = [{"text": f"a photo of {trigger}".strip(), "output": {"url": image}} for image in images]
    facts = [("Base", LICENCES[base]["base_model"]), ("Learnt", card.get("type")), ("Rank", card.get("rank")),
             ("Steps", card.get("steps")), ("Photos", card.get("photos"))]  # fmt: skip
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += [f"# {_plain(name)}", ""]
    if trigger:
        lines += [f"Say **`{_plain(trigger)}`** in the prompt to call it.", ""]
    lines += [f"- {label}: {_plain(str(value))}" for label, value in facts if value not in (None, "")]
    lines += ["", "```python", "from diffusers import FluxPipeline", ""]
    lines += [f'pipeline = FluxPipeline.from_pretrained("{LICENCES[base]["base_model"]}")']
    lines += [f'pipeline.load_lora_weights("REPOSITORY", weight_name="{FILE}")', "```", ""]
    licence = str(card.get("licence") or "") or licence_of(base, doing="training").text
    lines += ["## Licence", "", _plain(licence), ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that stays text in Markdown: one line, no tags."""
    return " ".join(text.split()).replace("<", "&lt;").replace("`", "'")


# --- the hub ----------------------------------------------------------------------------------------------------------


def _api(endpoint: str, token: str) -> HfApi:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise EngineError(
            "Copying a model to Hugging Face needs the package huggingface_hub.",
            "Install it with `pip install 'vividcover[neural]'`.",
        ) from error
    disable_progress_bars()  # they would be printed among our own
    return HfApi(endpoint=endpoint, token=token, library_name="vividcover")


def _repository(api: HfApi, repository: str, private: bool) -> bool:
    """Makes the repository if there is none; whether it is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return bool(api.model_info(repository).private)
    except RepositoryNotFoundError:
        api.create_repo(repository, private=private, exist_ok=True)
        return bool(api.model_info(repository).private)


def _upload(api: HfApi, patient: Patient, repository: str, files: Mapping[str, bytes]) -> str:
    """The commit's name. Large files first: until the commit they belong to nothing."""
    from huggingface_hub import CommitOperationAdd

    card = files[README].replace(b'"REPOSITORY"', json.dumps(repository).encode())
    added = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=card if name == README else data)
        for name, data in files.items()
    ]
    patient.call(lambda: api.preupload_lfs_files(repository, additions=added))
    done = patient.call(lambda: api.create_commit(repository, added, commit_message="A trained LoRA, by vividcover"))
    return str(done.oid)


def _verify(api: HfApi, repository: str, revision: str, lora: bytes) -> None:
    """Raises `EngineError` where the hub does not have the LoRA that was sent."""
    found = api.get_paths_info(repository, [FILE], revision=revision)
    stored = getattr(found[0], "lfs", None) if found else None
    if stored is None or stored.sha256 != hashlib.sha256(lora).hexdigest():
        raise EngineError(
            f"What Hugging Face has as {repository}/{FILE} is not what was sent.",
            "Upload it again, and look at the page.",
        )


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turns what the hub's client raises into errors that say what to do. None of them holds the token."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    network: type[Exception] = HfHubHTTPError.__mro__[1]  # HTTPError of the client that this version of the hub's uses
    owner = repository.partition("/")[0]
    try:
        yield
    except RepositoryNotFoundError as error:
        raise NotFoundError(f"Hugging Face has no {repository}, or the token may not see it.", TOKEN) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        said = str(error.server_message or "").strip()
        said = f": {said[:200]}" if said else ""
        if status == 401:
            raise EngineError(f"Hugging Face refuses the token{said}.", TOKEN) from error
        if status == 403:
            raise ForbiddenError(f"The token may not write to {owner} on Hugging Face{said}.", TOKEN) from error
        if status == 404:
            raise NotFoundError(f"Hugging Face knows no {owner}{said}.", "Check the owner's name.") from error
        raise EngineError(
            f"Hugging Face answered {status}{said}.", "Try again later; nothing was lost here."
        ) from error
    except HFValidationError as error:
        raise ParameterError(f"{repository!r} is no repository's name: {error}.", "Give owner/name.") from error
    except (network, OSError, RuntimeError, ValueError) as error:
        why = str(error.__cause__ or error)[:200] or type(error).__name__
        raise EngineError(
            f"The upload to Hugging Face failed: {why}.", "Check the network and try again; nothing was lost here."
        ) from error
