"""What a file is that is no LoRA for FLUX.1: for which other model, or what else, by the names and widths in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

TEXT_ENCODER = re.compile(
    r"(base_model\.model\.)?(lora_te\d?[_.]|te\d?_|text_encoders?(_\d)?[._]|text_model\.|lora_(clip|t5)[_-]|clip_l\.|t5(xxl)?\.)"
)
EMBEDDINGS = re.compile(r"bundle_emb\.|emb_params$|(clip_l|t5|t5xxl)$")
BLOCKS_OF_UNET = re.compile(
    r"(lora_unet_|unet\.|diffusion_model\.)(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)"
)
MODELS: tuple[tuple[str, str], ...] = (
    (r"distilled_guidance_layer", "Chroma"),
    (r"to_qkv_mlp_proj|ff(_context)?[._]linear_(in|out)|(double|single)_stream_modulation", "FLUX.2"),
    (r"(img|txt)_mlp[._]net|(img|txt)_mod[._]1\.", "Qwen-Image"),
    (r"(?<!single_)transformer_blocks[._](19|[2-9]\d)[._]attn[._](to|add)_", "Qwen-Image or another of more blocks"),
    (r"txtfusion", "Krea 2"),
    (r"joint_blocks", "Stable Diffusion 3"),
    (r"double_blocks\.\d+\.img_attn_qkv|individual_token_refiner|\.token_refiner", "HunyuanVideo"),
    (r"noise_refiner|context_refiner|(^|\.)layers[._]\d+[._](attention|adaLN)", "Z-Image or Lumina"),
    (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn)", "Wan or a relative"),
    (r"double_stream_blocks|single_stream_blocks", "HiDream"),
    (r"joint_transformer_blocks", "AuraFlow"),
    (r"transformer_blocks[._]\d+[._]attn[12][._]", "LTX-Video, PixArt or another diffusion transformer"),
)
OTHERS: tuple[tuple[str, str], ...] = (
    (r"\.oft_(blocks|diag)", "an OFT, which turns the base's weights around instead of adding to them"),
    (r"controlnet_", "a ControlNet"),
    (r"ip_adapter|image_proj\.|ip_hidden", "an IP-Adapter"),
    (r"redux_(up|down)", "the Redux image encoder"),
    (r"(^|\.)decoder\.(up|mid)", "an autoencoder (VAE)"),
)
WHOLE_MODEL = re.compile(r"(double_blocks|single_blocks|transformer_blocks)\.\d+\.[\w.]+\.weight$")
WIDTHS = {  # of attention, of models whose layers have FLUX.1's names
    1536: "Stable Diffusion 3 medium", 2432: "Stable Diffusion 3.5 large", 4096: "FLUX.2 klein 9B", 6144: "FLUX.2 dev",
}  # fmt: skip
CROSS_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
ARCHITECTURES = {  # how `modelspec.architecture` and kohya's `ss_base_model_version` begin
    "stable-diffusion-xl": "Stable Diffusion XL", "sdxl": "Stable Diffusion XL",
    "stable-diffusion-v1": "Stable Diffusion 1.x", "sd_v1": "Stable Diffusion 1.x",
    "stable-diffusion-v2": "Stable Diffusion 2.x", "sd_v2": "Stable Diffusion 2.x",
    "stable-diffusion-3": "Stable Diffusion 3", "stable-diffusion-v3": "Stable Diffusion 3",
    "sd3": "Stable Diffusion 3",
    "flux-2": "FLUX.2", "flux.2": "FLUX.2", "flux2": "FLUX.2", "qwen": "Qwen-Image", "wan": "Wan",
    "hunyuan": "HunyuanVideo", "lumina": "Lumina", "z-image": "Z-Image", "chroma": "Chroma",
}  # fmt: skip


def is_text_encoder(key: str) -> bool:
    """Whether a key is of a text encoder or of text embeddings, which a LoRA for FLUX may have beside the rest."""
    return TEXT_ENCODER.match(key) is not None or EMBEDDINGS.search(key) is not None


def architecture(metadata: Mapping[str, str]) -> str:
    """What the file says that it was trained on."""
    return (metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or "").lower()


def other_model(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str:
    """The other model that a LoRA is for; "" where nothing says so."""
    if any(BLOCKS_OF_UNET.match(key) for key in shapes):
        return _unet(shapes)
    for pattern, name in MODELS:
        if any(re.search(pattern, key) for key in shapes):
            return name
    for key, shape in shapes.items():
        if re.search(r"attn[._](to_q|qkv|img_attn)|img_attn[._]qkv", key) and len(shape) == 2:
            down = re.search(r"lora_A|down", key) is not None
            if down and shape[1] in WIDTHS:
                return WIDTHS[shape[1]]
    said = architecture(metadata)
    return next((name for start, name in ARCHITECTURES.items() if said.startswith(start)), "")


def _unet(shapes: Mapping[str, tuple[int, ...]]) -> str:
    widths = {
        shape[1]
        for key, shape in shapes.items()
        if len(shape) == 2 and "attn2" in key and "to_k" in key and ("down" in key or "lora_A" in key)
    }
    known = next((name for width, name in CROSS_WIDTHS.items() if width in widths), "")
    if not known and any(key.startswith("lora_te2_") for key in shapes):
        known = "Stable Diffusion XL"
    return known or "Stable Diffusion 1, 2 or XL"


def other_thing(names: Iterable[str]) -> str:
    """What a file is that holds no LoRA at all, in words; "" where nothing says so."""
    names = list(names)
    for pattern, thing in OTHERS:
        if any(re.search(pattern, name) for name in names):
            return thing
    if any(WHOLE_MODEL.search(name) for name in names):
        return "a whole model (a checkpoint)"
    if names and all(is_text_encoder(name) for name in names):
        return "text embeddings or a LoRA of the text encoder only"
    return ""
