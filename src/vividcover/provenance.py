"""What made an output, said in three places: a `.json` beside it, tags inside it, and the consent in the trained model.

The marks follow IPTC's "Digital Source Type" vocabulary (cv.iptc.org/newscodes/digitalsourcetype): a cover is
`compositeSynthetic` when the classic engine made it from recordings and photographs, `trainedAlgorithmicMedia` when a
generative network did.
"""

from __future__ import annotations

import json
import platform
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
RECORD = 1  # version of the record's layout


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


def licences(nets: Sequence[Mapping[str, Any]], materials: Sequence[Mapping[str, Any]], links: bool) -> dict[str, Any]:
    """The licences behind an output, and what they allow together.

    `nets`: {name, licence, commercial}; `materials`: trained models {kind, name, consent, licence}.
    """
    forbidding = [n["name"] for n in nets if not n.get("commercial", True)]
    missing = [f"{m['kind']} {m['name']}" for m in materials if not m.get("consent")]
    duties = ["Keep the AI-generated mark where the law asks for it (for example EU AI Act, article 50)."]
    if links:
        duties.append(
            "The song came from a link: its makers' rights are theirs; publishing a cover may need a licence."
        )
    else:
        duties.append("A cover of somebody's song may need their licence to be published.")
    if missing:
        duties.append(f"No consent is recorded for {', '.join(missing)}: do not publish without it.")
    return {
        "software": "vividcover, Apache-2.0",
        "nets": [{"name": n["name"], "licence": n["licence"]} for n in nets],
        "materials": [{k: m.get(k) for k in ("kind", "name", "licence", "consent")} for m in materials],
        "commercial_use": not forbidding and not missing,
        "because": f"non-commercial: {', '.join(forbidding)}" if forbidding
        else f"no consent: {', '.join(missing)}" if missing
        else "every net in use may be used commercially, and every trained model carries its owner's consent",
        "duties": duties,
    }  # fmt: skip


def record(
    *, model: str, engine: str, why: str, input: Mapping[str, Any], inputs: Mapping[str, Any], nets: Sequence[Any],
    materials: Sequence[Mapping[str, Any]], stages: Sequence[Any], not_honoured: Sequence[Any], notes: Sequence[str],
    details: Mapping[str, Any], outputs: Mapping[str, str], synthetic: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The whole story as JSON: what `cover.json` holds. `synthetic`: it shows or sounds like a person."""
    links = any(str(i.get("source", "")).startswith(("http://", "https://")) for i in inputs.values())
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
        "licences": licences(nets, materials, links),
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

    parts = ("numpy", "scipy", "av", "opencv-python-headless", "pyworld-prebuilt", "pillow", "soxr")
    return {"vividcover": __version__, "python": platform.python_version()} | {p: version(p) for p in parts}


def sidecar(output: Path, story: Mapping[str, Any]) -> Path:
    """Writes the record beside `output`: `cover.mp4` → `cover.json`. Another's file of that name is left alone."""
    path = output.with_suffix(".json")
    if path.exists() and not _ours(path):
        path = output.with_name(f"{output.name}.vividcover.json")
    return write_text(path, dumps(story))


def dumps(story: Mapping[str, Any]) -> str:
    """The record as readable JSON."""
    return json.dumps(story, indent=1, ensure_ascii=False, default=str) + "\n"


def _ours(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and str(found.get("made_by", "")).startswith("vividcover")
