"""What transformers' HuBERT gives for weights that follow from names: `golden_hubert.npz`.

    python tests/oracles/make_hubert.py          # in an environment with torch and transformers

Full size (94.6 M weights), made by `seeded.fill`; a second of `seeded.signal`. Kept: five frames of each layer.
"""

from pathlib import Path

import numpy as np
import torch
from seeded import fill, shapes_of, signal
from transformers import HubertConfig, HubertModel

HERE = Path(__file__).parent
FRAMES = [0, 1, 17, 31, 48]
LAYERS = [0, 1, 9, 12]

torch.set_num_threads(1)
model = HubertModel(HubertConfig(classifier_proj_size=256)).eval()
model.load_state_dict({name: torch.from_numpy(value) for name, value in fill(shapes_of(model)).items()})
head = {
    name: torch.from_numpy(value)
    for name, value in fill({"final_proj.weight": (256, 768), "final_proj.bias": (256,)}).items()
}
with torch.inference_mode():
    out = model(torch.from_numpy(signal(1.0, 16000))[None], output_hidden_states=True)
    kept = {f"layer{layer}": out.hidden_states[layer][0, FRAMES].numpy() for layer in LAYERS}
    kept["v1"] = torch.nn.functional.linear(out.hidden_states[9], head["final_proj.weight"], head["final_proj.bias"])[
        0, FRAMES
    ].numpy()
np.savez_compressed(HERE / "golden_hubert.npz", frames=FRAMES, count=out.last_hidden_state.shape[1], **kept)
