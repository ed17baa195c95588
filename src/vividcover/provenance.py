"""What made an output, said in three places: a `.json` beside it, tags inside it, and the consent in the trained model.

The marks follow IPTC's "Digital Source Type" vocabulary (cv.iptc.org/newscodes/digitalsourcetype): a cover is
`compositeSynthetic` when the classic engine made it from recordings and photographs, `trainedAlgorithmicMedia` when a
generative network did.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vividcover import __version__
from vividcover.workspace import write_text

MARK = "AI-generated: a synthetic voice and face, made with vividcover."
IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPE = {
    "classic": "compositeSynthetic",
    "neural": "trainedAlgorithmicMedia",
    "hosted": "trainedAlgorithmicMedia",
}
RECORD = 2  # version of the record's layout
SOFTWARE = {
    "name": "vividcover", "licence": "Apache-2.0",
    "allows": "any use, also commercial; it claims no right in what is made with it",
}  # fmt: skip
HOSTED = "its own, and the terms of the service that ran it"
NOT_STATED = "not stated in the model: ask whoever trained it"
SONGS = ("song", "audio", "vocals")  # inputs that are somebody's song or recording
PICTURES = ("still", "image")  # inputs that may be a picture of somebody who was asked by nobody


def tags(title: str, model: str, engine: str, seed: int | None = None) -> dict[str, str]:
    """What is written inside an audio or video file. The same run gives the same tags: no time, no host."""
    story = {
        "ai_generated": True, "digital_source_type": IPTC + SOURCE_TYPE[engine], "model": model, "engine": engine,
        "seed": seed, "software": f"vividcover {__version__}",
    }  # fmt: skip
    return {
        "title": title,
        "comment": f"{MARK} {json.dumps(story, sort_keys=True)}",
        "encoder": f"vividcover {__version__}",
    }


def xmp(engine: str, description: str) -> bytes:
    """An XMP packet for pictures with the IPTC digital source type, as Adobe's XMP specification part 1 lays it out."""
    from xml.sax.saxutils import escape, quoteattr

    kind = quoteattr(IPTC + SOURCE_TYPE[engine])
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f'Iptc4xmpExt:DigitalSourceType={kind} xmp:CreatorTool="vividcover {__version__}">'
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(f"{MARK} {description}")}</rdf:li></rdf:Alt>'
        '</dc:description></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def save_picture(rgb: Any, out: Path, *, format: str, quality: int, engine: str, description: str) -> None:
    """Writes `rgb` (uint8 [height, width, 3]) as png, jpg or webp with the AI-generated mark inside."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    picture = Image.fromarray(rgb)
    packet = xmp(engine, description)
    if format == "png":
        info = PngInfo()
        info.add_text("Comment", f"{MARK} {description}")
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
        picture.save(out, "PNG", pnginfo=info)
    elif format == "jpg":
        picture.save(out, "JPEG", quality=quality, subsampling=0, xmp=packet, comment=f"{MARK} {description}".encode())
    else:
        picture.save(out, "WEBP", quality=quality, xmp=packet)


def licences(
    nets: Sequence[Mapping[str, Any]], materials: Sequence[Mapping[str, Any]], inputs: Mapping[str, Mapping[str, Any]],
    synthetic: bool = True, hosted: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The licences behind an output, and what they allow together.

    `nets`: {name, licence, commercial, allows}; `materials`: trained models {kind, name, consent, licence, commercial};
    `inputs`: what was given, by the input's name, each with its `source`; `hosted`: the model that ran elsewhere.
    """
    if hosted:
        nets = [*nets, {"name": hosted, "licence": HOSTED, "allows": "what its page says", "commercial": False}]
    forbidding = [n["name"] for n in nets if not n.get("commercial", True)]
    forbidding += [f"{m['kind']} {m['name']}" for m in materials if m.get("commercial") is False]
    missing = [f"{m['kind']} {m['name']}" for m in materials if not m.get("consent")]
    if synthetic:
        trained = {m.get("sha256") for m in materials}
        shown = [name for name in PICTURES if name in inputs and inputs[name].get("sha256") not in trained]
        missing += [f"the picture given as {name}" for name in shown]
    return {
        "software": SOFTWARE,
        "nets": [{"name": n["name"], "licence": n["licence"], "allows": n.get("allows", "")} for n in nets],
        "materials": [
            {k: m.get(k) for k in ("kind", "name", "consent")} | {"licence": m.get("licence") or NOT_STATED}
            for m in materials
        ],
        "commercial_use": not forbidding and not missing,
        "because": f"non-commercial, or not known to be anything else: {', '.join(forbidding)}" if forbidding
        else f"no consent is recorded for {', '.join(missing)}" if missing
        else "the software and every net allow it, and every trained model in use carries a consent statement: "
        "read it, it may set limits",
        "duties": _duties(missing, materials, inputs, synthetic),
    }  # fmt: skip


def _duties(
    missing: Sequence[str], materials: Sequence[Any], inputs: Mapping[str, Mapping[str, Any]], synthetic: bool
) -> list[str]:
    """What remains to whoever publishes the output, which no record can settle."""
    duties = []
    if synthetic:
        duties.append("Keep the AI-generated mark where the law asks for it (for example EU AI Act, article 50).")
    if missing:
        duties.append(f"No consent is recorded for {', '.join(missing)}: do not publish without it.")
    if materials:
        duties.append("Stay within the consent statements and licences of the trained models.")
    songs = [inputs[name] for name in SONGS if name in inputs]
    if any(str(song.get("source", "")).startswith(("http://", "https://")) for song in songs):
        duties.append(
            "The sound came from a link: it is its makers'; publishing what is made of it may need a licence."
        )
    elif songs:
        duties.append("The song or recording is its makers': publishing what is made of it may need their licence.")
    return duties


def record(
    *, model: str, engine: str, why: str, input: Mapping[str, Any], inputs: Mapping[str, Any], nets: Sequence[Any],
    materials: Sequence[Mapping[str, Any]], stages: Sequence[Any], not_honoured: Sequence[Any], notes: Sequence[str],
    details: Mapping[str, Any], outputs: Mapping[str, str], synthetic: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The whole story as JSON: what `cover.json` holds. `synthetic`: it shows or sounds like a person."""
    return {
        "record": RECORD,
        "made_by": f"vividcover {__version__}",
        "ai_generated": synthetic,
        "mark": MARK if synthetic else "",
        "digital_source_type": IPTC + SOURCE_TYPE[engine] if synthetic else None,
        "model": model,
        "engine": engine,
        "engine_why": why,
        "parameters": dict(input),
        "seed": input.get("seed"),
        "inputs": {k: dict(v) for k, v in inputs.items()},
        "outputs": dict(outputs),
        "not_honoured": [{"parameter": n.parameter, "value": n.value, "why": n.why} for n in not_honoured],
        "notes": list(notes),
        "licences": licences(nets, materials, inputs, synthetic, model if engine == "hosted" else ""),
        "models": [dict(m) for m in materials],
        "stages": [
            {"name": s.name, "key": s.key, "seconds": round(s.seconds, 3), "from_cache": s.hit} for s in stages
        ],
        "details": dict(details),
        "versions": versions(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of what has a hand in the bytes of an output."""
    from importlib.metadata import version

    parts = ["numpy", "scipy", "av", "opencv-python-headless", "pyworld-prebuilt", "pillow", "soxr"]
    parts += [name for name in ("torch", "safetensors", "diffusers", "transformers") if name in sys.modules]
    return {"vividcover": __version__, "python": platform.python_version()} | {p: version(p) for p in parts}


def sidecar(output: Path, story: Mapping[str, Any]) -> Path:
    """Writes the record beside `output`. Another's file of that name is left alone."""
    path = record_path(output)
    if path.exists() and not _ours(path):
        path = output.with_name(f"{output.name}.vividcover.json")
    return write_text(path, dumps(story))


def record_path(output: Path) -> Path:
    """Where an output's record lies: `cover.mp4` → `cover.json`; any other keeps its suffix, `song.flac.json`.

    So a song in two formats has two records, and none of them is a video's.
    """
    return output.with_suffix(".json") if output.suffix.lower() == ".mp4" else output.with_name(f"{output.name}.json")


def dumps(story: Mapping[str, Any]) -> str:
    """The record as readable JSON."""
    return json.dumps(story, indent=1, ensure_ascii=False, default=str) + "\n"


def _ours(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and str(found.get("made_by", "")).startswith("vividcover")
