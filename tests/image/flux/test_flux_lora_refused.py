"""LoRA files that are broken, foreign or no LoRA: refused whole, by name, with what to do about it."""

from __future__ import annotations

import random

import pytest
import torch
from safetensors.torch import save

from lora_making import LAYER, STEM, TINY, H, State, alphas, bfl, kohya, lora, peft, refused, underscored
from vividcover.errors import ModelFileError, VividCoverError
from vividcover.image.flux.lorafile import read_lora, worst_difference


def test_a_lora_of_which_a_part_is_missing_is_refused_and_the_part_named() -> None:
    for state, key in [
        (peft(lora()), "transformer.transformer_blocks.0.attn.to_k.lora_B.weight"),
        (kohya(lora()), "lora_unet_double_blocks_1_img_mlp_0.lora_down.weight"),
        (underscored(lora(), "lycoris_"), "lycoris_single_transformer_blocks_2_proj_out.lora_up.weight"),
    ]:
        del state[key]
        refused(state, "is not whole", key)
    refused({f"{STEM}.lokr_w1": torch.eye(2)}, f"{STEM}.lokr_w2")


def test_keys_that_flux_has_no_layer_for_are_refused_by_name() -> None:
    state = peft(lora())
    state["transformer.transformer_blocks.7.attn.to_q.lora_A.weight"] = torch.zeros(4, H)
    state["transformer.somewhere.else"] = torch.zeros(4, H)
    refused(state, "2 keys", "transformer_blocks.7.attn.to_q.lora_A.weight", "somewhere.else", "Nothing of it was used")


def test_a_lora_that_holds_a_layer_twice_is_refused() -> None:
    twice = peft(lora()) | peft(lora(), down="lora_down", up="lora_up")
    refused(twice, "twice")
    refused(peft(lora()) | kohya(lora()), "mixes two key styles")
    refused(peft(lora()) | peft(lora(), prefix=""), "twice")


def test_numbers_that_are_no_numbers_are_refused() -> None:
    for bad, name in ((float("nan"), "NaN"), (float("inf"), "infinite numbers")):
        state = peft(lora())
        state["transformer.transformer_blocks.1.ff.net.2.lora_B.weight"][0, 0] = bad
        refused(state, "is broken", "transformer_blocks.1.ff.net.2", name)
        refused({f"{STEM}.lokr_w1": torch.eye(2), f"{STEM}.lokr_w2": torch.full((64, 16), bad)}, "is broken", name)


@pytest.mark.parametrize(
    ("key", "shape", "model"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", (4, 768), "Stable Diffusion 1.x"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", (4, 2048), "Stable Diffusion XL"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", (4, 320), "Stable Diffusion 1, 2 or XL"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", (4, 1536), "Stable Diffusion 3"),
        ("transformer.transformer_blocks.0.attn.to_q", (4, 1536), "Stable Diffusion 3 medium"),
        ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", (4, 6144), "FLUX.2"),
        ("diffusion_model.double_blocks.0.img_attn.qkv", (4, 6144), "FLUX.2 dev"),
        ("transformer.transformer_blocks.0.img_mlp.net.0.proj", (4, 3072), "Qwen-Image"),
        ("transformer.transformer_blocks.42.attn.add_q_proj", (4, 3072), "Qwen-Image or another"),
        ("lora_unet_txtfusion_refiner_blocks_1_mlp_down", (4, 3072), "Krea 2"),
        ("lora_unet_distilled_guidance_layer_layers_0_in_layer", (4, 3072), "Chroma"),
        ("diffusion_model.blocks.0.self_attn.q", (4, 5120), "Wan"),
        ("diffusion_model.double_blocks.0.img_attn_qkv", (4, 3072), "HunyuanVideo"),
        ("diffusion_model.layers.0.attention.to_q", (4, 3840), "Z-Image"),
    ],
)
def test_a_lora_for_another_model_is_called_by_that_models_name(key: str, shape: tuple[int, int], model: str) -> None:
    state = {f"{key}.lora_down.weight": torch.zeros(shape), f"{key}.lora_up.weight": torch.zeros(64, 4)}
    refused(state, f"is a LoRA for {model}", "not for FLUX.1")


def test_a_file_that_is_no_lora_is_called_what_it_is() -> None:
    refused({"transformer_blocks.0.attn.to_q.weight": torch.zeros(H, H)}, "is not a LoRA", "a whole model")
    refused({"emb_params": torch.zeros(2, 8)}, "text embeddings")
    refused({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 8)}, "text encoder only")
    refused({"oft_unet_double_blocks_0_img_mlp_2.oft_blocks.0": torch.zeros(2, 8)}, "is not a LoRA", "an OFT")
    refused({"hello": torch.zeros(2)}, "is not a LoRA", "hello")
    with pytest.raises(ModelFileError, match="web page"):
        read_lora(b"<!DOCTYPE html><html></html>", TINY)


def test_what_no_pair_can_say_is_refused_with_the_reason() -> None:
    one = peft(lora([LAYER]))
    refused(one | {f"transformer.{LAYER}.dora_scale": torch.ones(128, 1)}, "is a DoRA")
    refused(one | {f"transformer.{LAYER}.lora_magnitude_vector": torch.ones(128)}, "is a DoRA")
    refused(one | {f"transformer.{LAYER}.diff": torch.ones(128, 32)}, "changes whole layers")
    refused({name: (tensor * 100).to(torch.int8) for name, tensor in one.items()}, "int8", "quantised")


def test_a_lora_of_other_shapes_is_refused() -> None:
    state = peft(lora())
    state["transformer.transformer_blocks.0.attn.to_q.lora_B.weight"] = torch.zeros(H, 5)
    refused(state, "of different rank")
    state["transformer.transformer_blocks.0.attn.to_q.lora_B.weight"] = torch.zeros(H + 1, 4)
    refused(state, f"makes a matrix of {H + 1} x {H}", f"the layer is {H} x {H}")


# --- any damage ------------------------------------------------------------------------------------------------------

LOKR = {f"{STEM}.lokr_w1": torch.eye(2), f"{STEM}.lokr_w2_a": torch.ones(64, 3), f"{STEM}.lokr_w2_b": torch.ones(3, 16)}
LOHA = {f"{STEM}.hada_w{i}_{x}": torch.ones((128, 3) if x == "a" else (3, 32)) for i in (1, 2) for x in "ab"}
FILES = {
    "diffusers": peft(lora()), "with alphas": peft(lora()) | alphas(lora(alpha=2.0)), "kohya": kohya(lora()),
    "bfl": bfl(lora(), "diffusion_model."), "lycoris": underscored(lora(), "lycoris_"), "lokr": LOKR, "loha": LOHA,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_no_tensor_can_be_missing_without_being_noticed(name: str) -> None:
    for key in FILES[name]:
        rest = {other: tensor for other, tensor in FILES[name].items() if other != key}
        with pytest.raises(ModelFileError):
            read_lora(save({other: tensor.contiguous() for other, tensor in rest.items()}), TINY)


def damaged(state: State, chance: random.Random) -> State:
    """One thing of a file changed as a broken tool might."""
    state = dict(state)
    key = chance.choice(list(state))
    tensor = state.pop(key)
    match chance.randrange(8):
        case 0:
            state[key[: chance.randrange(len(key))] + chance.choice("._x") + key[chance.randrange(len(key)) :]] = tensor
        case 1:
            state[key] = torch.randn([chance.randrange(5) for _ in range(chance.randrange(4))])
        case 2:
            kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.float8_e4m3fn, torch.bool)
            state[key] = tensor.to(chance.choice(kinds))
        case 3:
            state[key] = tensor.t() if tensor.ndim == 2 else tensor[None]
        case 4:
            state[key] = torch.full(tensor.shape, float("nan"))
        case 5:
            state |= {key: tensor, key.replace("0", "1", 1): tensor.clone()}
        case 6:
            state[key] = tensor[..., None]
        case 7:
            state[key] = tensor.new_zeros(0)
    return state


def test_whatever_is_wrong_with_a_file_it_is_refused_with_a_hint_or_read() -> None:
    chance, refusals = random.Random(7), 0
    for _ in range(300):
        state = damaged(FILES[chance.choice(list(FILES))], chance)
        data = save({name: tensor.contiguous().clone() for name, tensor in state.items()})
        if chance.random() < 0.1:
            data = data[: chance.randrange(len(data))]
        try:
            read_lora(data, TINY)
        except VividCoverError as error:
            assert error.hint
            refusals += 1
    assert refusals > 150


def test_what_is_refused_in_eight_or_sixteen_bits_is_read_where_the_numbers_are_all_there() -> None:
    for kind, most in ((torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float64, 1e-7), (torch.float8_e5m2, 0.3)):
        found = read_lora(save({name: tensor.to(kind) for name, tensor in peft(lora()).items()}), TINY)
        assert worst_difference(lora(), found)[0] < most
