"""The nets that pictures are trained, painted, captioned, checked and scored with: FLUX.1 and its companions.

Hashes and sizes: Black Forest Labs' own table (github.com/black-forest-labs/flux, docs), and the hub's LFS records as
public programs pin them. Small files have none: the hub names their git hash as it sends them, at the pinned commit.
"""

from __future__ import annotations

from vividcover.weights.licences import DEV_NAME, DEV_PAGE, DEV_SHORT
from vividcover.weights.sources import Net, Part, Tree, hub, tree

BFL = "black-forest-labs"
DEV_NOTE = (
    f"{DEV_NAME}: non-commercial use only, which a LoRA trained on it inherits; its makers claim no rights in the "
    f"pictures, whose use they allow for any purpose that the licence does not prohibit. {DEV_PAGE}"
)
SCHNELL_NOTE = "Apache-2.0 (Black Forest Labs); commercial use allowed; keep the notice."
SCHNELL_GATE = f"https://huggingface.co/{BFL}/FLUX.1-schnell"


def _flux(
    name: str, purpose: str, repository: str, revision: str, size: int, sha256: str, licence: str, note: str,
    commercial: bool, group: str, *mirrors: str,
) -> Net:  # fmt: skip
    file = f"flux1-{repository.removeprefix('FLUX.1-').lower()}.safetensors"
    return Net(
        name, f"{name}/{file}", purpose, hub(f"{BFL}/{repository}", revision, file, *mirrors), "", size, sha256,
        licence, note, commercial, (group,), gated=f"https://huggingface.co/{BFL}/{repository}", either=True,
    )  # fmt: skip


def _dev(name: str, purpose: str, repository: str, revision: str, size: int, sha256: str, group: str) -> Net:
    return _flux(name, purpose, repository, revision, size, sha256, DEV_SHORT, DEV_NOTE, False, group)


TRANSFORMERS = (
    _dev(
        "flux-dev",
        "paints pictures, and is what a LoRA is trained on (FLUX.1 [dev], 12 billion numbers)",
        "FLUX.1-dev",
        "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
        23_802_932_552,
        "4610115bb0c89560703c892c59ac2742fa821e60ef5871b33493ba544683abd7",
        "flux",
    ),
    _flux(
        "flux-schnell",
        "paints pictures in four steps (FLUX.1 [schnell])",
        "FLUX.1-schnell",
        "741f7c3ce8b383c54771c7003378a50191e9efe9",
        23_782_506_688,
        "9403429e0052277ac2a87ad800adece5481eecefd9ed334e1f348723621d2a0a",
        "Apache-2.0",
        SCHNELL_NOTE,
        True,
        "flux-schnell",
        hub("Comfy-Org/flux1-schnell", "f757664cb3ff8b19ff99e064a2387a5f547ad9e8", "flux1-schnell.safetensors").page,
    ),
    _dev(
        "flux-fill",
        "fills in and paints on (FLUX.1 Fill [dev])",
        "FLUX.1-Fill-dev",
        "358293da0354175698b67ec8299acf928313a78a",
        23_804_922_408,
        "03e289f530df51d014f48e675a9ffa2141bc003259bf5f25d75b957e920a41ca",
        "flux-tools",
    ),
    _dev(
        "flux-canny",
        "paints along edges (FLUX.1 Canny [dev])",
        "FLUX.1-Canny-dev",
        "main",  # no commit is on record; the hash pins it
        23_803_351_736,
        "996876670169591cb412b937fbd46ea14cbed6933aef17c48a2dcd9685c98cdb",
        "flux-tools",
    ),
    _dev(
        "flux-depth",
        "paints along depth (FLUX.1 Depth [dev])",
        "FLUX.1-Depth-dev",
        "fb5e9b1bae41b8c8adcea4ea2a87b74dd298f07a",
        0,
        "41360d1662f44ca45bc1b665fe6387e91802f53911001630d970a4f8be8dac21",
        "flux-tools",
    ),
)

# what the transformers share: text encoders and the autoencoder, as published with [schnell] ------------------------

SCHNELL_REVISION = "741f7c3ce8b383c54771c7003378a50191e9efe9"
COPY = (("unsloth/FLUX.1-schnell", "9df3faa7ae3b6ddf0b2b69bb78616372897cc65c"),)  # the same files, for everybody
TEXT = (
    Part("text_encoder/config.json", 613, "d79d5c8c6ce85112a923d621a5412886ddbbb0636210fc0f72f450582e675542"),
    Part(
        "text_encoder/model.safetensors",
        246_144_352,
        "893d67a23f4693ed42cdab4cbad7fe3e727cf59609c40da28a46b5470f9ed082",
    ),
    Part("text_encoder_2/config.json", 782, "9001e5a8ae0571a362f806b87b6105dd1a15c33dca237b606d2561164109beeb"),
    Part(
        "text_encoder_2/model-00001-of-00002.safetensors",
        4_994_582_224,
        "ec87bffd1923e8b2774a6d240c922a41f6143081d52cf83b8fe39e9d838c893e",
    ),
    Part(
        "text_encoder_2/model-00002-of-00002.safetensors",
        4_530_066_360,
        "a5640855b301fcdbceddfa90ae8066cd9414aff020552a201a255ecf2059da00",
    ),
    Part(
        "text_encoder_2/model.safetensors.index.json",
        19_885,
        "3bacec0f0cf392399d4a385908f67dd73df99c9e9cfee669f148858ba9fbdb0a",
    ),
    Part("tokenizer/merges.txt", 524_619, "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"),
    Part("tokenizer/special_tokens_map.json", 588, "2cdb3b8331a60c92fc1e55a13e9fd61fd2293c5a51275fdcccd62b780052530e"),
    Part("tokenizer/tokenizer_config.json", 705, "6bdcee9ccce2a16ca2b4c0c5ed00b42c50ea225f4472a8c4c1e963a2902c2881"),
    Part("tokenizer/vocab.json", 1_059_962, "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349"),
    Part(
        "tokenizer_2/special_tokens_map.json", 2_543, "7a1985a994c41886db38c719d2a3d2f40606663cc19d7c5d6a85d349320e06d2"
    ),
    Part("tokenizer_2/spiece.model", 791_656, "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86"),
    Part("tokenizer_2/tokenizer.json", 2_424_235, "f5dfec163765e18e270537fe896c49f5fad74db1525641d9b255a3008b999596"),
    Part(
        "tokenizer_2/tokenizer_config.json", 20_817, "1a3d2db64215ed77854dd4208aac5f8361c1b5471cabd19c0ef1472d1a895eb0"
    ),
)
VAE = (
    Part("vae/config.json", 774, "bc1e208f414a315365fbecf426838f43b87c9d5c051219e0968a56e2644b2998"),
    Part(
        "vae/diffusion_pytorch_model.safetensors",
        167_666_902,
        "f5b59a26851551b67ae1fe58d32e76486e1e812def4696a4bea97f16604d40a3",
    ),
)


def _shared(name: str, purpose: str, parts: tuple[Part, ...], note: str) -> Net:
    source = Tree(f"{BFL}/FLUX.1-schnell", SCHNELL_REVISION, parts, COPY)
    return tree(name, purpose, source, "Apache-2.0", f"{SCHNELL_NOTE} {note}", True, "flux", SCHNELL_GATE)


SHARED = (
    _shared(
        "flux-text",
        "reads prompts for every FLUX.1 model (T5-XXL, CLIP-L)",
        TEXT,
        "T5 v1.1 is Google's, Apache-2.0; CLIP-L is OpenAI's, whose code is MIT and whose own page names no licence.",
    ),
    _shared("flux-vae", "pictures to latents and back, for every FLUX.1 model", VAE, "The same in all of them."),
)
REDUX = (
    tree(
        "flux-redux",
        "takes a picture for a prompt (FLUX.1 Redux [dev], with SigLIP)",
        Tree(
            f"{BFL}/FLUX.1-Redux-dev",
            "1282f955f706b5240161278f2ef261d2a29ad649",
            (
                Part(
                    "flux1-redux-dev.safetensors", 0, "a1b3bdcb4bdc58ce04874b9ca776d61fc3e914bb6beab41efb63e4e2694dca45"
                ),
                Part("feature_extractor/preprocessor_config.json"),
                Part("image_encoder/config.json"),
                Part("image_encoder/model.safetensors"),
            ),
        ),
        DEV_SHORT,
        f"{DEV_NOTE} SigLIP is Google's, Apache-2.0.",
        False,
        "flux-tools",
        f"https://huggingface.co/{BFL}/FLUX.1-Redux-dev",
    ),
    tree(
        "siglip",
        "sees the picture for a Redux that comes without it (SigLIP)",
        Tree(
            "google/siglip-so400m-patch14-384",
            "9fdffc58afc957d1a03a25b10dba0329ab15c2a3",
            (
                Part("config.json", 576, "adc04928d8fd19a61822584fe0cf2e813e5ebac17f3e49fb1ea096860ae6457b"),
                Part(
                    "preprocessor_config.json", 368, "f59da2f87c3cd079bd4f8f3037e81b277c60c498e279a8020331f67a5a3157e8"
                ),
                Part(
                    "model.safetensors",
                    3_511_950_624,
                    "ea2abad2b7f8a9c1aa5e49a244d5d57ffa71c56f720c94bc5d240ef4d6e1d94a",
                ),
            ),
        ),
        "Apache-2.0",
        "Google's page declares Apache-2.0; commercial use allowed.",
        True,
        "redux-other",
    ),
    tree(
        "depth-anything-v2-small",
        "how far away what a picture shows is (Depth Anything V2, small)",
        Tree(
            "depth-anything/Depth-Anything-V2-Small-hf",
            "5426e4f0f36572d16453bbda7a8389317b1bef99",
            (
                Part("config.json"),
                Part("preprocessor_config.json"),
                Part(
                    "model.safetensors", 99_173_660, "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70"
                ),
            ),
        ),
        "Apache-2.0",
        "The small model is Apache-2.0 (its larger ones are not); commercial use allowed.",
        True,
        "flux-tools",
    ),
)

# captions ----------------------------------------------------------------------------------------------------------

NEEDED = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
OTHERS = (
    "added_tokens.json", "chat_template.json", "chat_template.jinja", "generation_config.json", "merges.txt",
    "processor_config.json", "special_tokens_map.json", "vocab.json",
)  # fmt: skip
READING = (*(Part(file) for file in NEEDED), *(Part(file, optional=True) for file in OTHERS))
FLORENCE_NOTE = "Microsoft's Florence-2 is MIT; commercial use allowed. Its weights in transformers' own layout."


def _florence(kind: str, revision: str, size: int, sha256: str, group: str) -> Net:
    source = Tree(
        f"florence-community/Florence-2-{kind}",
        revision,
        (*READING, Part("model.safetensors", size, sha256)),
    )
    purpose = f"says what a picture shows (Florence-2, {kind})"
    return tree(f"florence-2-{kind}", purpose, source, "MIT", FLORENCE_NOTE, True, group)


CAPTIONS = (
    _florence(
        "large",
        "4271c66b88cdbc05735372ec13b2360108de5317",
        1_553_541_016,
        "7715423d6549bf1e71188bdd84f4ac960cc0597886af24a5ef7b66f128660685",
        "captions",
    ),
    _florence("base", "00921df66db728a9ceb750f5eca43e5c203a2051", 0, "", "captioners"),
    tree(
        "qwen3-vl-4b",
        "says what a picture shows, as it is asked to (Qwen3-VL, 4 billion numbers)",
        Tree(
            "Qwen/Qwen3-VL-4B-Instruct",
            "ebb281ec70b05090aa6165b016eac8ec08e71b17",
            (
                *READING,
                Part("model.safetensors.index.json"),
                Part(
                    "model-00001-of-00002.safetensors",
                    4_967_229_296,
                    "30a01a0556622645a3cce87b655bbbbbc1f170c196099f1b666c93202c3339a9",
                ),
                Part(
                    "model-00002-of-00002.safetensors",
                    3_908_490_048,
                    "046296a2a387efb43b0c997d5833c789604d168834f6e0d3064bf7bb13d002a6",
                ),
            ),
        ),
        "Apache-2.0",
        "Alibaba's Qwen team; commercial use allowed.",
        True,
        "captioners",
    ),
)

# checks and scores -------------------------------------------------------------------------------------------------

CHECKS = (
    tree(
        "safety-checker",
        "tells pictures that are not for everybody (Stable Diffusion's safety checker)",
        Tree(
            "CompVis/stable-diffusion-safety-checker",
            "cb41f3a270d63d454d385fc2e4f571c487c253c5",
            (
                Part("config.json"),
                Part("preprocessor_config.json"),
                Part(
                    "pytorch_model.bin",
                    1_216_067_303,
                    "64b8393f1afd5a0c1ed2aa5f341fa7c08286839a48f3743162a76a2835c808bd",
                ),
            ),
        ),
        "unstated",
        "Published with Stable Diffusion 1; its page names no licence, so commercial use is an open question.",
        None,
        "safety",
    ),
    tree(
        "nsfw-detector",
        "tells pictures that are not for everybody (a ViT by Falconsai)",
        Tree(
            "Falconsai/nsfw_image_detection",
            "04367978d3474804ab1a00a9bd6548b741764069",
            (Part("config.json"), Part("preprocessor_config.json"), Part("model.safetensors", 343_223_968)),
        ),
        "Apache-2.0",
        "Falconsai's page declares Apache-2.0; commercial use allowed.",
        True,
        "safety",
    ),
    tree(
        "clip-vit-b32",
        "how well a picture fits a prompt, or other pictures (CLIP, ViT-B/32)",
        Tree(
            "openai/clip-vit-base-patch32",
            "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
            (
                Part("config.json", 4_186, "b575ef3c36f2a057fa19e221650105052d61cc9c1a972ec15019c6261ec98770"),
                Part("merges.txt", 524_657, "f526393189112391ce6f9795d4695f704121ce452c3aad1f5335cc41337eba85"),
                Part(
                    "preprocessor_config.json", 316, "910e70b3956ac9879ebc90b22fb3bc8a75b6a0677814500101a4c072bd7857bd"
                ),
                Part(
                    "special_tokens_map.json", 389, "f8c0d6c39aee3f8431078ef6646567b0aba7f2246e9c54b8b99d55c22b707cbf"
                ),
                Part("tokenizer.json", 2_224_041, "b556ac8c99757ffb677208af34bc8c6721572114111a6e0aaf5fa69ff0b8d842"),
                Part("tokenizer_config.json", 592, "34b7336e4bee12e0a9730eaf5189f582ef3c3eea5027f65730e5717256755aad"),
                Part("vocab.json", 862_328, "5047b556ce86ccaf6aa22b3ffccfc52d391ea4accdab9c2f2407da5b742d4363"),
                Part(
                    "pytorch_model.bin",
                    605_247_071,
                    "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
                ),
            ),
        ),
        "MIT?",
        "OpenAI's code is MIT; the page of these weights names no licence, and asks not to deploy them untested.",
        None,
        "scores",
    ),
    tree(
        "dino-vits16",
        "how much a picture's subject is like another's (DINO, ViT-S/16)",
        Tree(
            "facebook/dino-vits16",
            "abe3b354cb6a9b6f146096b14a4a9d7eecbcb4bd",
            (Part("config.json"), Part("preprocessor_config.json"), Part("pytorch_model.bin")),
        ),
        "Apache-2.0",
        "Meta's page declares Apache-2.0; commercial use allowed.",
        True,
        "scores",
    ),
)

IMAGE = (*TRANSFORMERS, *SHARED, *REDUX, *CAPTIONS, *CHECKS)
IMAGE_GROUPS = {
    "flux": "to train LoRAs and to paint (FLUX.1 [dev] and what it needs)",
    "flux-schnell": "quick, and free for commercial use; needs flux-text and flux-vae too",
    "flux-tools": "fill, edges, depth, and a picture as a prompt",
    "redux-other": "SigLIP by itself",
    "captions": "to say what training pictures show",
    "captioners": "a smaller captioner and a larger one",
    "safety": "both checkers of finished pictures",
    "scores": "to score pictures against prompts and photographs",
}
