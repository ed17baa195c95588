"""Settings come from the environment; one that cannot be read is the user's to mend, and named."""

from pathlib import Path

import pytest

from vividcover.errors import ParameterError
from vividcover.settings import settings


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("THREADS", "abc", "valid integer"),
        ("THREADS", "0", "greater than or equal to 1"),
        ("CACHE_LIMIT", "20GB", "valid integer"),
        ("MAX_SONG_SECONDS", "-5", "greater than 0"),
    ],
)
def test_a_wrong_value_is_an_error_of_ours_with_name_value_and_way_out(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"VIVIDCOVER_{name}", value)
    settings.cache_clear()
    with pytest.raises(ParameterError) as caught:
        settings()
    assert f"VIVIDCOVER_{name}={value}: " in caught.value.message and said in caught.value.message
    assert "unset" in caught.value.hint


def test_a_list_that_is_no_list_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_PRIVATE_HOSTS", "localhost:9000")
    settings.cache_clear()
    with pytest.raises(ParameterError, match="VIVIDCOVER_PRIVATE_HOSTS=localhost:9000: is not a JSON list"):
        settings()


def test_what_should_be_an_object_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_WEIGHT_FILES", "rmvpe=/tmp/rmvpe.pt")
    settings.cache_clear()
    with pytest.raises(ParameterError, match="is not a JSON object") as told:
        settings()
    assert '{"name": "value"}' in told.value.hint


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_THREADS", "many")
    monkeypatch.setenv("VIVIDCOVER_DOWNLOAD_TIMEOUT", "soon")
    settings.cache_clear()
    with pytest.raises(ParameterError, match=r"VIVIDCOVER_DOWNLOAD_TIMEOUT=soon.*VIVIDCOVER_THREADS=many"):
        settings()


def test_an_empty_variable_is_one_that_is_not_set_and_a_tilde_is_the_users_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIVIDCOVER_HOME", "")
    monkeypatch.setenv("VIVIDCOVER_THREADS", "")
    settings.cache_clear()
    assert settings().home.is_absolute() and settings().threads >= 1
    monkeypatch.setenv("VIVIDCOVER_HOME", "~/covers")
    settings.cache_clear()
    assert settings().home == Path.home() / "covers"


def test_a_mended_value_is_read_without_starting_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVIDCOVER_THREADS", "many")
    settings.cache_clear()
    with pytest.raises(ParameterError):
        settings()
    monkeypatch.setenv("VIVIDCOVER_THREADS", "2")
    assert settings().threads == 2
