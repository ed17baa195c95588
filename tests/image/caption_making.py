"""Captioners of random weights, in the folders that the real ones come in: Florence-2 and Qwen3-VL, a second each."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def tiny_florence(folder: Path, seed: int = 0) -> Path:
    """51 thousand numbers; pictures of 64 px are five tokens. Says nonsense, always the same of the same picture."""
    from transformers import Florence2Config, Florence2ForConditionalGeneration

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>"]
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    own = dict(zip(names, special)) | {"extra_special_tokens": {"image_token": "<image>"}}
    size = _tokenizer(folder, special, "BartTokenizer", own)
    vision = {
        "depths": [1, 1, 1, 1], "embed_dim": [8, 8, 16, 16], "num_heads": [1, 1, 2, 2], "num_groups": [1, 1, 2, 2],
        "window_size": 4, "projection_dim": 16,
    }  # fmt: skip
    text = {
        "model_type": "bart", "vocab_size": size, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "max_position_embeddings": 512, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 2, "forced_eos_token_id": 2, "init_std": 0.5,
    }  # fmt: skip
    torch.manual_seed(seed)
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=special.index("<image>"))
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    picture = {
        "image_processor_type": "CLIPImageProcessor", "processor_class": "Florence2Processor", "image_seq_length": 5,
        "size": {"height": 64, "width": 64}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": False,
        "do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder


def tiny_qwen(folder: Path, seed: int = 0) -> Path:
    """Patches of 16 px, merged two by two; two layers of text."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    special = [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
        "<|video_pad|>",
    ]  # fmt: skip
    size = _tokenizer(folder, special, "Qwen2Tokenizer", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0], "patch_size": 16, "initializer_range": 0.5,
    }  # fmt: skip
    text = {
        "vocab_size": size, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        "initializer_range": 0.5,
    }  # fmt: skip
    torch.manual_seed(seed)
    config = Qwen3VLConfig(
        vision_config=vision, text_config=text, image_token_id=5, video_token_id=6, vision_start_token_id=3,
        vision_end_token_id=4, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    picture = {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen3VLProcessor", "patch_size": 16,
        "temporal_patch_size": 2, "merge_size": 2, "size": {"shortest_edge": 1024, "longest_edge": 65536},
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder


def _tokenizer(folder: Path, special: list[str], kind: str, own: dict[str, object]) -> int:
    """One token a byte; returns how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    names = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **own}))
    return len(names)
