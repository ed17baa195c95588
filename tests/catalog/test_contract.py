"""A model's inputs are declared once; wrong ones are named, all at once, with what would be right."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vividcover.catalog.contract import Context, Made, takes_file, validated
from vividcover.catalog.fast_flux_trainer import FastFluxTrainer
from vividcover.catalog.flux_lora import FluxLora, FluxLoraInput, size_of
from vividcover.catalog.hello import Hello
from vividcover.catalog.realistic_voice_cloning import OURS, RealisticVoiceCloning, RealisticVoiceCloningInput
from vividcover.catalog.sonic import Sonic, SonicInput
from vividcover.catalog.steps import file_name
from vividcover.catalog.train_rvc_model import TrainRvcModel
from vividcover.cover import ALONE, Cover, CoverInput, get, models
from vividcover.errors import ConsentError, EngineError, NotFoundError, ParameterError
from vividcover.settings import Settings
from vividcover.workspace import Stage, Workspace

# The published defaults of the seeds: name → (default, low, high).
SONG = {
    "index_rate": (0.5, 0, 1), "filter_radius": (3, 0, 7), "rms_mix_rate": (0.25, 0, 1), "protect": (0.33, 0, 0.5),
    "reverb_size": (0.15, 0, 1), "reverb_wetness": (0.2, 0, 1), "reverb_dryness": (0.8, 0, 1),
    "reverb_damping": (0.7, 0, 1),
}  # fmt: skip
PORTRAIT = {"dynamic_scale": (1.0, 0.5, 2.0), "min_resolution": (512, 256, 1024), "inference_steps": (25, 5, 50)}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(Workspace(tmp_path / "cache"), Settings(home=tmp_path))


@pytest.mark.parametrize(("schema", "published"), [(RealisticVoiceCloningInput, SONG), (SonicInput, PORTRAIT)])
def test_defaults_and_ranges_are_the_seeds_own(schema: type, published: dict[str, tuple[float, float, float]]) -> None:
    properties = schema.model_json_schema()["properties"]
    for name, (default, low, high) in published.items():
        field = properties[name]
        assert (field["default"], field["minimum"], field["maximum"]) == (default, low, high), name


def test_the_song_covers_inputs_have_the_seeds_names() -> None:
    published = [
        "song_input", "rvc_model", "custom_rvc_model_download_url", "pitch_change", "index_rate", "filter_radius",
        "rms_mix_rate", "pitch_detection_algorithm", "crepe_hop_length", "protect", "main_vocals_volume_change",
        "backup_vocals_volume_change", "instrumental_volume_change", "pitch_change_all", "reverb_size",
        "reverb_wetness", "reverb_dryness", "reverb_damping", "output_format",
    ]  # fmt: skip
    assert list(RealisticVoiceCloningInput.model_fields) == [*published, *OURS]


def test_every_wrong_value_is_named_with_what_would_be_right() -> None:
    with pytest.raises(ParameterError) as caught:
        validated("m", SonicInput, {"image": "a", "dynamic_scale": 9, "min_resolution": "big", "sead": 1})
    said = str(caught.value)
    assert "audio is required" in said
    assert "dynamic_scale=9: input should be less than or equal to 2" in said
    assert "min_resolution='big'" in said
    assert "unknown parameter 'sead' (did you mean 'seed'?)" in said


@pytest.mark.parametrize("name", ["vividcover/cover", "zsxkib/sonic", "replicate/train-rvc-model"])
def test_a_model_is_found_by_name_and_with_a_version_behind_it(name: str) -> None:
    assert get(name).name == get(f"{name}:0123abcd").name == name


def test_an_unknown_model_gets_the_nearest_name() -> None:
    with pytest.raises(NotFoundError, match=r"Did you mean zsxkib/sonic\?"):
        get("zsxkib/sonik")


def test_each_models_schema_is_json_and_every_field_is_described() -> None:
    for model in models().values():
        for schema in filter(None, (model.Input, model.TrainingInput)):
            json.dumps(schema.model_json_schema())
            assert all(f.description for f in schema.model_fields.values()), model.name


def test_files_are_marked_as_such_in_the_schema() -> None:
    marked = {k for k, f in CoverInput.model_fields.items() if takes_file(f)}
    assert marked == {"song", "still", "vocals_stem", "instrumental_stem"}


def test_training_a_person_needs_their_consent_in_words(context: Context) -> None:
    with pytest.raises(ConsentError, match="--consent"):
        TrainRvcModel().run({"dataset_zip": "x.zip"}, context)
    with pytest.raises(ConsentError, match="--consent"):
        FastFluxTrainer().train({"input_images": "x.zip"}, context)


def test_the_trainers_prediction_is_a_no_op_as_published(context: Context) -> None:
    assert FastFluxTrainer().run({"txt": "hi"}, context).output == "predict on this model is a no-op"


def test_an_engine_that_is_not_here_says_so_and_is_never_replaced(context: Context) -> None:
    context.engine = "neural"
    with pytest.raises(EngineError, match=r"eights are missing: sonic-unet, .* \(vividcover weights pull sonic-unet"):
        Sonic().run({"image": "a.png", "audio": "b.wav"}, context)
    with pytest.raises(EngineError, match=r"neural engine for vividcover/hello is not part of this release"):
        Hello().run({"text": "x"}, context)


def test_a_given_seed_is_kept_and_a_missing_one_is_drawn_and_reported(context: Context) -> None:
    with pytest.raises(NotFoundError, match=r"image: there is no file 'no\.jpg'"):
        Sonic().run({"image": "no.jpg", "audio": "no.wav", "seed": 5}, context)
    assert validated("m", SonicInput, {"image": "a", "audio": "b", "seed": 2**40}).seed == 2**40


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({}, (1024, 1024)), ({"aspect_ratio": "16:9"}, (1344, 768)), ({"megapixels": "0.25"}, (512, 512)),
        ({"aspect_ratio": "custom", "width": 770, "height": 1002}, (784, 1008)),
    ],
)  # fmt: skip
def test_the_sizes_of_pictures(given: dict[str, object], size: tuple[int, int]) -> None:
    assert size_of(validated(FluxLora.name, FluxLoraInput, {"prompt": "x", **given})) == size


def test_the_hint_to_a_wrong_value_is_where_the_ranges_are_and_to_an_unknown_name_the_names() -> None:
    with pytest.raises(ParameterError) as caught:
        validated("zsxkib/sonic", SonicInput, {"image": "a", "audio": "b", "dynamic_scale": 9})
    assert caught.value.hint == "Types, ranges and choices of each: vividcover models zsxkib/sonic"
    with pytest.raises(ParameterError) as caught:
        validated("zsxkib/sonic", SonicInput, {"image": "a", "audio": "b", "dynamic": 9})
    assert "did you mean 'dynamic_scale'?" in caught.value.message and "min_resolution" in caught.value.hint


def test_the_folder_one_stands_in_has_a_name(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert context.file("photos", ".", folder=True).name == tmp_path.name


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("AC/DC", "AC_DC"), ("../../etc/passwd", "_.._etc_passwd"), ("C:\\x", "C__x"), ("...", "song"), ("", "song"),
        ("Ärger im Paradies (live)", "Ärger im Paradies (live)"), ("x" * 200, "x" * 80),
    ],
)  # fmt: skip
def test_a_songs_title_becomes_a_name_that_stays_in_its_folder(title: str, name: str) -> None:
    assert file_name(title, "song") == name


def test_a_custom_size_needs_both_sides() -> None:
    with pytest.raises(ParameterError, match="needs width and height"):
        size_of(validated(FluxLora.name, FluxLoraInput, {"prompt": "x", "aspect_ratio": "custom", "width": 512}))


def test_custom_voice_without_a_link_is_an_error_and_so_is_an_unknown_name(context: Context, tmp_path: Path) -> None:
    singer = RealisticVoiceCloning()
    with pytest.raises(ParameterError, match="CUSTOM needs custom_rvc_model_download_url"):
        singer.run({"song_input": "x.mp3", "rvc_model": "CUSTOM"}, context)
    with pytest.raises(NotFoundError, match=r"no voice named 'Squidward'.*Train one"):
        singer.run({"song_input": "x.mp3"}, context)


def test_the_isolated_call_of_a_cover_differs_from_the_full_one_only_in_the_mix() -> None:
    before_the_mix = {"song_input", "rvc_model", "custom_rvc_model_download_url", "pitch_change", "index_rate",
                      "filter_radius", "rms_mix_rate", "protect"}  # fmt: skip
    assert not before_the_mix & set(ALONE)


def test_a_cover_needs_a_face_from_somewhere(context: Context) -> None:
    with pytest.raises(ParameterError, match="image is required"):
        Cover()._painting(validated("m", CoverInput, {"song": "s", "voice": "v"}))


def test_whatever_an_engine_ignores_is_an_input_and_is_named_when_it_is_given(context: Context) -> None:
    for model in models().values():
        fields = {*model.Input.model_fields, *(model.TrainingInput.model_fields if model.TrainingInput else ())}
        assert set().union(*model.ignores.values()) <= fields, model.name
    with pytest.raises(NotFoundError):
        Sonic().run({"image": "no.jpg", "audio": "no.wav", "inference_steps": 30}, context)
    with pytest.raises(NotFoundError):
        FastFluxTrainer().train({"input_images": "no.zip", "training_steps": 7}, replace(context, consent="mine"))
    named = {(n.parameter, n.value) for n in context.not_honoured}  # the list is shared by the copy
    assert named == {("inference_steps", 30), ("training_steps", 7)}


def test_what_a_stage_could_not_follow_reaches_the_result_once_and_its_notes_too(context: Context) -> None:
    def compute(stage: Stage) -> None:
        stage.note("a choice was made")
        stage.meta.update(not_honoured=["hop=8: no such tracker"], report={"not_honoured": ["word: flurbo"]})

    for hit in (False, True):
        run = Context(context.workspace, context.settings)
        run.cannot("hop", 8, "no tracker at all")
        assert run.stage("song/mix", version=1, inputs={}, params={}, compute=compute).hit is hit
        result = run.result("m", Made("text"), "classic", "asked for", {})
        assert [(n.parameter, n.value) for n in result.not_honoured] == [("hop", 8), ("prompt", "flurbo")]
        assert result.notes == ["a choice was made"] and len(result.stages) == 1
