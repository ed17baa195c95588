"""Where a LoRA that somebody names lies, and how to get it.

    path = bring("huggingface.co/owner/name", folder, tokens=Tokens(hub=…), reporter=…)
    first = plan("civitai.com/models/123", tokens)      # the same without the network: what would be asked, of whom

Known ways to name one, as published LoRA models take them:

    ./vivi.safetensors, ./model.tar                     a file here
    owner/name, huggingface.co/owner/name[/file]        Hugging Face
    owner/name/<64 hex digits>                          a version of a model on Replicate
    civitai.com/models/123, urn:air:flux1:lora:civitai:123@456
    https://…/anything.safetensors, .tar, .zip          any link to a file
    data:application/x-tar;base64,…                     the file itself

A model's own name (`owner/name` of a training here) is looked up by the caller first. Nothing is fetched but by the
guarded fetcher (`song/fetch.py`): public addresses only, limits on bytes and time, tokens to their own site only.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

from vividcover.errors import EngineError, LinkError, ModelFileError, NotFoundError, ParameterError
from vividcover.files import aside, sha256_file
from vividcover.song.guard import Endpoint, check_link, show
from vividcover.workspace import Reporter, Silent

if TYPE_CHECKING:
    from vividcover.song.fetch import FetchLimits

HUB, CIVITAI, REPLICATE = "huggingface.co", "civitai.com", "replicate.com"
FILES = (".safetensors", ".tar", ".zip")
FINAL = (
    "lora.safetensors",
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
)  # of several, in this order
PEFT_FILE, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PART_OF_ANOTHER = re.compile(r"(_emb|embeddings?|optimizer|text_encoder\w*)\.safetensors$")
CHECKPOINT = re.compile(r"[_-](step|epoch)?[_-]?\d{3,}\.safetensors$")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SITE = re.compile(r"(www\.)?(huggingface\.co|hf\.co|civitai\.com|replicate\.com)/")  # written without https://
VERSION = re.compile(r"[0-9a-f]{64}")
AIR = re.compile(r"urn:air:(?P<base>\w+):(?P<type>\w+):civitai:(?P<model>\d+)(@(?P<version>\d+))?", re.I)
MOST_DATA = 3 << 30  # characters of a data: link
MOST_LISTING = 64 << 20  # bytes of a site's answer about a model
WAYS = "Give a file, a link to a .safetensors or .tar, huggingface.co/owner/name, or civitai.com/models/NUMBER."
Fetch = Callable[[str, Path, Mapping[str, str]], Path]  # link, folder, headers → the file


@dataclass(frozen=True)
class Tokens:
    """What the sites know the user by; "" where there is none."""

    hub: str = field(default="", repr=False)
    civitai: str = field(default="", repr=False)
    replicate: str = field(default="", repr=False)


@dataclass(frozen=True)
class Plan:
    """A request. `listing`: its answer says which file it is, for `choose`; otherwise it is the file.

    `headers` are for the link's own site only. `file`, `version`: what the reference asked for in particular.
    """

    site: Literal["Hugging Face", "Civitai", "Replicate", "the web"]
    url: str
    name: str
    listing: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    file: str = ""
    version: str = ""
    trigger: str = ""  # the trigger word that the site names
    sha256: str = ""  # of the file, where the site says it


def plan(reference: str, tokens: Tokens | None = None, allow: Collection[Endpoint] = ()) -> Plan:
    """What to ask for, first. Raises `ParameterError` for what is no reference, `LinkError` for a link not to fetch."""
    tokens, text = tokens or Tokens(), reference.strip()
    if found := AIR.fullmatch(text):
        if not found["base"].lower().startswith("flux"):
            raise ModelFileError(f"{text} is made for {found['base']}, not for FLUX.1.", "Choose a LoRA for FLUX.1.")
        return _civitai(found["model"], found["version"] or "", tokens)
    if SITE.match(text):
        text = "https://" + text.replace(" ", "%20")
    if "://" in text:
        return _link(text, tokens, allow)
    parts = text.replace(":", "/").split("/")
    if len(parts) >= 2 and NAME.fullmatch("/".join(parts[:2])):
        if len(parts) == 3 and VERSION.fullmatch(parts[2]):
            return _replicate(parts[0], parts[1], parts[2], tokens)
        if len(parts) == 2:
            return _hub(parts[0], parts[1], "main", "", tokens)
    raise ParameterError(f"{reference.strip()[:120]!r} names no LoRA.", WAYS)


def choose(asked: Plan, answer: bytes, tokens: Tokens | None = None) -> Plan:
    """The file, from what the site answered about the model. Raises `ModelFileError`: none, several, another base."""
    chosen = _chosen_civitai if asked.site == "Civitai" else _chosen_hub
    try:
        return chosen(asked, json.loads(answer), tokens or Tokens())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LinkError(
            f"{asked.site} said nothing that can be read about {asked.name}.",
            "Try again later, or give a link to a file.",
        ) from error


def bring(
    reference: str, folder: Path, *, tokens: Tokens | None = None, fetch: Fetch | None = None,
    reporter: Reporter | None = None, allow: frozenset[Endpoint] = frozenset(), limits: FetchLimits | None = None,
) -> Path:  # fmt: skip
    """The file behind a reference, fetched into `folder` unless it is here already.

    `limits` are the guarded fetcher's, or `fetch` takes its place. Raises what `plan` and `choose` do, `NotFoundError`,
    `EngineError` (a site wants a token), `LinkError` (also for a file that is not the one that the site lists), and
    what else the fetcher raises.
    """
    folder, tokens = Path(folder), tokens or Tokens()
    if reference.lstrip().startswith("data:"):
        return _data(reference.strip(), folder)
    if "://" not in reference and (here := Path(reference).expanduser()).exists():
        return here
    if reference.endswith(FILES) and "://" not in reference and not SITE.match(reference):
        raise NotFoundError(f"There is no file {reference!r}.", WAYS)
    fetch = fetch or _guarded(reporter or Silent(), allow, limits)
    step = plan(reference, tokens, allow)
    if step.listing:
        answer = _fetched(step, folder, fetch, tokens)
        try:
            if answer.stat().st_size > MOST_LISTING:
                raise LinkError(f"{step.site} answers without end about {step.name}.", "Give a link to the file.")
            step = choose(step, answer.read_bytes(), tokens)
        finally:
            answer.unlink(missing_ok=True)
    path = _fetched(step, folder, fetch, tokens)
    if step.file.endswith(PEFT_FILE):  # its scale is in another file, which has to lie beside it
        other = replace(step, url=step.url.removesuffix(PEFT_FILE) + PEFT_SETTINGS, file=PEFT_SETTINGS, sha256="")
        _fetched(other, folder, fetch, tokens).replace(folder / PEFT_SETTINGS)
        path = path.replace(folder / PEFT_FILE)
    return path


# --- sites ------------------------------------------------------------------------------------------------------------


def _link(link: str, tokens: Tokens, allow: Collection[Endpoint]) -> Plan:
    parts = check_link(link, allow)
    host = (parts.hostname or "").removeprefix("www.")
    path = [unquote(piece) for piece in parts.path.split("/") if piece]
    if host in (HUB, "hf.co") and len(path) >= 2 and path[0] not in ("api", "datasets", "spaces"):
        return _hub_link(path, tokens)
    if host == CIVITAI and path[:1] == ["models"] and len(path) > 1 and path[1].isdigit():
        return _civitai(path[1], parse_qs(parts.query).get("modelVersionId", [""])[0], tokens)
    if host == CIVITAI and path[:3] == ["api", "download", "models"]:
        return Plan("Civitai", link, f"model version {path[-1]}", headers=_bearer(tokens.civitai))
    if host == REPLICATE and path[-1:] == ["_weights"]:
        return Plan("Replicate", link, "/".join(path[:2]), headers=_bearer(tokens.replicate))
    if host == REPLICATE and len(path) == 2:
        return _replicate(path[0], path[1], "", tokens)
    if host in (HUB, "hf.co", CIVITAI, REPLICATE) and not parts.path.endswith(FILES):
        raise LinkError(f"{show(link)} is a page about something else than one LoRA.", WAYS)
    return Plan("the web", link, path[-1] if path else host)


def _hub_link(path: list[str], tokens: Tokens) -> Plan:
    owner, name, rest = path[0], path[1], path[2:]
    if rest and rest[0] in ("blob", "resolve", "tree"):
        revision = rest[1] if len(rest) > 1 else "main"
        return _hub(owner, name, revision, "/".join(rest[2:]), tokens)
    return _hub(owner, name, "main", "/".join(rest), tokens)


def _hub(owner: str, name: str, revision: str, inside: str, tokens: Tokens) -> Plan:
    """`inside`: a file of the repository, or a folder."""
    headers, repository = _bearer(tokens.hub), f"{quote(owner)}/{quote(name)}"
    if inside.endswith(FILES):
        url = f"https://{HUB}/{repository}/resolve/{quote(revision)}/{quote(inside)}"
        return Plan("Hugging Face", url, f"{owner}/{name}", headers=headers, file=inside)
    url = f"https://{HUB}/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
    return Plan("Hugging Face", url, f"{owner}/{name}", True, headers, inside, revision)


def _civitai(model: str, version: str, tokens: Tokens) -> Plan:
    url = f"https://{CIVITAI}/api/v1/models/{model}"
    return Plan("Civitai", url, f"model {model}", True, _bearer(tokens.civitai), version=version)


def _replicate(owner: str, name: str, version: str, tokens: Tokens) -> Plan:
    middle = f"/versions/{version}" if version else ""
    url = f"https://{REPLICATE}/{quote(owner)}/{quote(name)}{middle}/_weights"
    return Plan("Replicate", url, f"{owner}/{name}", headers=_bearer(tokens.replicate), version=version)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _chosen_hub(asked: Plan, found: Mapping[str, Any], tokens: Tokens) -> Plan:
    names = [str(one.get("rfilename", "")) for one in found.get("siblings") or [] if isinstance(one, dict)]
    folder = f"{asked.file.strip('/')}/" if asked.file else ""
    inside = [name for name in names if name.startswith(folder) and name.endswith(".safetensors")]
    best = _final([name for name in inside if "/" not in name.removeprefix(folder)] or inside)
    if len(best) != 1:
        what = f"{len(best)} LoRAs ({', '.join(best[:5])})" if best else "no .safetensors file"
        raise ModelFileError(
            f"{HUB}/{asked.name}{'/' + folder.rstrip('/') if folder else ''} holds {what}.",
            f"Name the file: {HUB}/{asked.name}/{best[0]}" if best else WAYS,
        )
    owner, _, name = asked.name.partition("/")
    chosen = _hub(owner, name, asked.version or "main", best[0], tokens)
    about = found.get("cardData")
    trigger = str(about.get("instance_prompt") or "") if isinstance(about, dict) else ""
    return replace(chosen, trigger=trigger, sha256=_hub_sha256(found, best[0]))


def _hub_sha256(found: Mapping[str, Any], name: str) -> str:
    for one in found["siblings"]:
        if isinstance(one, dict) and one.get("rfilename") == name and isinstance(one.get("lfs"), dict):
            return str(one["lfs"].get("sha256") or "")
    return ""


def _final(names: list[str]) -> list[str]:
    """Of a repository's files the LoRA itself: not its embeddings, not what was saved on the way."""
    own = [name for name in names if not PART_OF_ANOTHER.search(name)]
    last = [name for name in own if not CHECKPOINT.search(name)]
    own = last if len(last) == 1 else own
    known = [name for final in FINAL for name in own if name.rsplit("/", 1)[-1] == final]
    return known[:1] if known else own


def _chosen_civitai(asked: Plan, found: Mapping[str, Any], tokens: Tokens) -> Plan:
    versions = [one for one in found.get("modelVersions") or [] if isinstance(one, dict)]
    if asked.version:
        versions = [one for one in versions if str(one.get("id")) == asked.version]
    name = str(found.get("name") or asked.name)
    if not versions:
        raise NotFoundError(f"Civitai has no such version of {name}.", "Copy the link of the model's page once more.")
    flux = [one for one in versions if str(one.get("baseModel", "")).startswith("Flux.1")]
    if str(found.get("type", "LORA")).upper() not in ("LORA", "LOCON", "DORA") or not flux:
        kind = f"{found.get('type', 'LORA')} for {versions[0].get('baseModel', 'another model')}"
        raise ModelFileError(f"{name} on Civitai is a {kind}, not a LoRA for FLUX.1.", "Choose a LoRA for FLUX.1.")
    files = [one for one in flux[0].get("files") or [] if isinstance(one, dict) and one.get("type") == "Model"]
    weights = [one for one in files if str(one.get("name", "")).endswith(FILES)]
    best = next((one for one in weights if one.get("primary")), weights[0] if weights else None)
    link = str((best or {}).get("downloadUrl") or "")
    if best is None or urlsplit(link).hostname != CIVITAI or urlsplit(link).scheme != "https":
        raise ModelFileError(f"{name} on Civitai has no file to download.", "Download it there and give the file.")
    words = [str(word) for word in flux[0].get("trainedWords") or []]
    sums = best.get("hashes") or {}
    return Plan(
        "Civitai", link, name, headers=_bearer(tokens.civitai), file=str(best["name"]),
        trigger=words[0] if words else "", sha256=str(sums.get("SHA256") or "").lower(),
    )  # fmt: skip


# --- fetching ---------------------------------------------------------------------------------------------------------


def _guarded(reporter: Reporter, allow: frozenset[Endpoint], limits: FetchLimits | None) -> Fetch:
    from vividcover.song.fetch import FetchLimits, fetch_file

    most = limits or FetchLimits()

    def fetch(link: str, folder: Path, headers: Mapping[str, str]) -> Path:
        return fetch_file(link, folder, limits=most, reporter=reporter, allow=allow, headers=headers).path

    return fetch


def _fetched(step: Plan, folder: Path, fetch: Fetch, tokens: Tokens) -> Path:
    try:
        path = fetch(step.url, folder, step.headers)
    except LinkError as error:
        if re.search(r"\((401|403)\)", error.message):
            raise _no_entry(step, tokens) from error
        if "(404" in error.message:
            raise NotFoundError(
                f"{step.site} has no {step.name}{_part(step)}, or it is private.", _token(step)
            ) from error
        raise
    if step.sha256 and sha256_file(path) != step.sha256:
        path.unlink()
        raise LinkError(
            f"What {step.site} sent as {step.name} is not the file that it lists: its sha256 is another.",
            "Try again later.",
        )
    return path


def _part(step: Plan) -> str:
    return f" with a file {step.file!r}" if step.file and not step.listing else ""


def _no_entry(step: Plan, tokens: Tokens) -> EngineError:
    given = {"Hugging Face": tokens.hub, "Civitai": tokens.civitai, "Replicate": tokens.replicate}.get(step.site, "")
    if given:
        return EngineError(f"{step.site} refuses {step.name} with the token that was given.", _token(step))
    return EngineError(f"{step.site} asks for a token before it hands out {step.name}.", _token(step))


def _token(step: Plan) -> str:
    """Where a token goes, and what else a site may want."""
    hints = {
        "Hugging Face": f"Set VIVIDCOVER_HF_TOKEN; where a licence must be accepted, do it on {HUB}/{step.name}.",
        "Civitai": "Set VIVIDCOVER_CIVITAI_TOKEN (an API key of your account there).",
        "Replicate": "Give the link of its trained_model.tar, or set VIVIDCOVER_REPLICATE_TOKEN.",
    }
    return hints.get(step.site, "Download it yourself and give the file.")


def _data(link: str, folder: Path) -> Path:
    """A data: link's contents as a file (RFC 2397)."""
    head, comma, body = link.partition(",")
    if not comma or len(link) > MOST_DATA:
        raise LinkError(f"The data: link of {len(link)} characters is not whole, or too long.", WAYS)
    try:
        data = base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote(body).encode("latin-1")
    except (binascii.Error, ValueError) as error:
        raise LinkError(f"The data: link is damaged: {error}.", "Encode the file once more.") from error
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        suffix = ".safetensors"
    else:
        suffix = ".zip" if data.startswith(b"PK") else ".tar"
    with aside(folder / f"lora{suffix}") as part:
        part.write_bytes(data)
    return folder / f"lora{suffix}"
