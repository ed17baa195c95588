"""What licences of weights mean for whoever trains with them, paints or animates with them, and passes on the result.

    note = licence_of("dev", doing="training")
    note.commercial, note.text      # said before a training begins, and written into what it makes
    note = licence_of_portrait()    # the same for the neural portrait: Sonic, and Stable Video Diffusion below it

The sentences follow the licences' own words; section numbers are those of the FLUX.1 [dev] Non-Commercial License,
which is at version 1.1.1 beside the weights and in its makers' repository (github.com/black-forest-labs/flux,
model_licenses), and at 2.0 on their site. They are no legal advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vividcover.errors import ParameterError

DEV_NAME = "FLUX.1 [dev] Non-Commercial License"
DEV_SHORT = "FLUX-1-dev"  # where there is little room
DEV_PAGE = "https://github.com/black-forest-labs/flux/blob/main/model_licenses/LICENSE-FLUX1-dev"
DEV_TERMS = "https://bfl.ai/licensing"
DEV_COMMON = (
    "{model} is under the FLUX.1 [dev] Non-Commercial License: it may be used, changed and passed on for "
    "non-commercial purposes only, that is where no direct or indirect payment arises from the use of the model or its "
    "output, and neither in production nor where it meets end users (1.c, 2.b, 4.a); nor for surveillance, military or "
    "biometric purposes."
)
DEV_TRAINING = (
    "A LoRA or a fine-tune of it is a Derivative under the same terms (1.a, 2.a). Whoever passes one on must add the "
    "licence, its notice, and that the model was changed (3.a-c)."
)
DEV_GENERATION = (
    "Its makers claim no rights in the pictures, and allow their use for any purpose, commercial too, except as the "
    "licence prohibits (2.d): running the model for a commercial purpose is what it prohibits. Pictures may not "
    "be used to train a model that competes with it. Whoever runs it is asked to filter or review what it paints, and "
    "to say that it was made by AI."
)
DEV_BUY = f"For commercial work ask Black Forest Labs for a licence ({DEV_TERMS}), or use FLUX.1 [schnell]."
SCHNELL_COMMON = "FLUX.1 [schnell] is under Apache-2.0: commercial use allowed; keep its notice."
SCHNELL_TRAINING = "What is trained on it may be used and passed on under terms of your own."
SCHNELL_GENERATION = "The licence claims nothing in the pictures."
CROSS = "A LoRA that was trained on FLUX.1 [dev] stays under that model's licence when it is worn on FLUX.1 [schnell]."

KINDS = {
    "dev": "FLUX.1 [dev]", "fill": "FLUX.1 Fill [dev]", "canny": "FLUX.1 Canny [dev]", "depth": "FLUX.1 Depth [dev]",
    "redux": "FLUX.1 Redux [dev]", "schnell": "FLUX.1 [schnell]",
}  # fmt: skip


@dataclass(frozen=True)
class LicenceNote:
    """`name` of the licence, or of several; what it means in a few sentences; whether it allows commercial use."""

    name: str
    text: str
    commercial: bool | None


def licence_of(
    *kinds: str, doing: Literal["training", "generation"] = "generation", trained_on: str = ""
) -> LicenceNote:
    """What is said when the FLUX.1 models `kinds` are used: "dev", "schnell", "fill", "canny", "depth", "redux", also
    with "flux-" before it. `trained_on`: the base of the LoRAs that are worn, where it is another.

    Raises `ParameterError` for a kind that there is none of.
    """
    names = list(dict.fromkeys(kind.removeprefix("flux-") for kind in (*kinds, *([trained_on] if trained_on else []))))
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names:
        raise ParameterError(
            f"There is no FLUX.1 model called {', '.join(unknown) or 'so'!r}.", f"Known: {', '.join(KINDS)}."
        )
    bound = [name for name in names if name != "schnell"]
    said = []
    if bound:
        own = DEV_TRAINING if doing == "training" else DEV_GENERATION
        said += [DEV_COMMON.format(model=_listed([KINDS[name] for name in bound])), own, DEV_BUY]
    if "schnell" in names:
        said += [SCHNELL_COMMON]
        if not bound:
            said += [SCHNELL_TRAINING if doing == "training" else SCHNELL_GENERATION]
        elif trained_on and "schnell" in [kind.removeprefix("flux-") for kind in kinds]:
            said += [CROSS]
    licences = ([DEV_NAME] if bound else []) + (["Apache-2.0"] if "schnell" in names else [])
    return LicenceNote(" and ".join(licences), " ".join(said), not bound)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}, each"


# the neural portrait -------------------------------------------------------------------------------------------------

SONIC_NAME, SONIC_SHORT = "Creative Commons BY-NC-SA 4.0", "BY-NC-SA"  # the second where there is little room
SONIC_PAGE = "https://github.com/jixiaozhong/Sonic"
SVD_NAME, SVD_SHORT = "Stability AI Community License", "Stability"
SVD_PAGE = "https://stability.ai/license"
SONIC_TEXT = (
    f"Sonic's code and weights are under {SONIC_NAME}: not for commercial purposes; name its authors (Ji and others, "
    f"{SONIC_PAGE}), and pass on what is made of them under the same licence. Its authors say that the videos, too, "
    "are for education and research only, and send commercial users to Tencent Cloud's service."
)
SVD_TEXT = (
    f"Stable Video Diffusion, below it, is under the {SVD_NAME} ({SVD_PAGE}): commercial use is free only up to a "
    "revenue of USD 1 million a year, after registering; deceiving people is forbidden by its acceptable use policy."
)
PORTRAIT_BUY = "For a video that earns money use the classic renderer, or another with weights of a free licence."


def licence_of_portrait() -> LicenceNote:
    """What is said before a portrait is made with Sonic, and written into what it makes."""
    return LicenceNote(f"{SONIC_NAME} and {SVD_NAME}", f"{SONIC_TEXT} {SVD_TEXT} {PORTRAIT_BUY}", False)
