"""Where things are kept and how far they may grow. Every field can be set by an environment variable."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from vividcover.errors import ParameterError

GIB = 1024**3
PREFIX = "VIVIDCOVER_"
SETTINGS_HINT = "Change or unset it. Sizes are in bytes and times in seconds, as plain numbers."


def _default_home() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("vividcover", appauthor=False))


def _default_weights() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("vividcover", appauthor=False)) / "weights"


class Settings(BaseSettings):
    """`VIVIDCOVER_HOME`, `VIVIDCOVER_CACHE_LIMIT`, … (bytes, seconds)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", env_ignore_empty=True)

    home: Path = Field(default_factory=_default_home, description="voices, images and the stage cache")
    weights_dir: Path = Field(default_factory=_default_weights, description="where nets are kept, for all data folders")
    cache_limit: int = Field(20 * GIB, ge=0, description="bytes the stage cache may hold; least recently used go first")
    max_song_seconds: float = Field(default=1800.0, gt=0, description="longest song that is accepted")
    max_download_bytes: int = Field(default=2 * GIB, gt=0, description="largest file fetched from a link")
    download_timeout: float = Field(default=900.0, gt=0, description="seconds that one fetch may take in all")
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="processor cores to use")

    # the neural engine
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="auto (the best there is), cpu, cuda, cuda:1, mps",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="of the neural engine's numbers; auto: what the device does well, without a loss one notices",
    )
    weight_files: dict[str, Path] = Field(
        default_factory=dict,
        description='own files or folders instead of the registry\'s: {"rmvpe": "/nets/rmvpe.pt"}',
    )
    hf_token: str = Field(
        default="", validation_alias=AliasChoices("VIVIDCOVER_HF_TOKEN", "HF_TOKEN", "hf_token"),
        description="token for the Hugging Face hub: weights that ask for one, LoRAs, copies of trained models",
    )  # fmt: skip
    civitai_token: str = Field(default="", description="token for Civitai, whose LoRAs mostly ask for one")
    llm_url: str = Field(
        default="", description="an OpenAI-compatible address (…/v1) that writes prompts and captions; empty: none"
    )
    llm_key: str = Field(default="", description="key for it")
    llm_model: str = Field(default="", description="model to ask for there")

    # the server
    database: str = Field(default="", description="database URL; empty: SQLite in the data folder")
    artifacts: str = Field(default="", description="folder or s3://bucket/prefix; empty: a folder in the data folder")
    public_url: str = Field(default="", description="how clients reach the server, when not as it listens")
    data_uri_bytes: int = Field(
        default=0, ge=0, description="outputs up to this size are data: links when the server is reached by http://"
    )
    max_upload_bytes: int = Field(default=4 * GIB, gt=0, description="largest file that may be uploaded")
    max_account_bytes: int = Field(default=100 * GIB, gt=0, description="bytes of files an account may keep")
    upload_keep_seconds: float = Field(default=86_400.0, gt=0, description="how long an uploaded file is kept")
    share_stages: bool | None = Field(
        default=None,
        description="whether a worker on another machine may go on from finished stages; empty: with Postgres or S3",
    )
    stage_keep_seconds: float = Field(default=86_400.0, ge=0, description="how long these stages are kept after use")
    output_keep_seconds: float = Field(default=0.0, ge=0, description="how long outputs are kept; 0: for good")
    lease_seconds: float = Field(default=30.0, gt=0, description="after this silence a worker's run is taken over")
    cancel_grace: float = Field(default=0.6, ge=0, description="seconds between asking a run to stop and killing it")
    run_limit_seconds: float = Field(default=0.0, ge=0, description="longest a run may take; 0: no limit")
    creates_per_minute: int = Field(default=0, ge=0, description="runs that a token may create a minute; 0: no limit")
    reads_per_minute: int = Field(default=0, ge=0, description="other requests of a token a minute; 0: no limit")
    prices: dict[str, float] = Field(
        default_factory=dict,
        description='USD: {"second:cpu": 0, "output:owner/name": 0.03}; what is not named is priced by prices.PRICES',
    )
    webhook_seconds: float = Field(default=20.0, gt=0, description="how long a webhook's receiver may take to answer")
    webhook_hours: float = Field(default=12.0, ge=0, description="how long a webhook that fails is tried again")
    delivery_keep_days: float = Field(default=30.0, gt=0, description="how long the log of webhooks is kept")
    private_hosts: list[str] = Field(
        default_factory=list, description="host:port pairs that links and webhooks may reach although private"
    )
    # the hosted engine
    replicate_token: str = Field(default="", description="token for Replicate, or a server like it")
    replicate_url: str = Field(default="https://api.replicate.com", description="its address, without /v1")
    bfl_key: str = Field(default="", description="key for BFL")
    bfl_url: str = Field(default="https://api.us1.bfl.ai", description="its address, without /v1")

    @field_validator("home", "weights_dir")
    @classmethod
    def _at_home(cls, folder: Path) -> Path:
        """`~` is the user's home here too: no shell expands it in a `.env` file or between quotes."""
        return folder.expanduser()

    @property
    def private_endpoints(self) -> frozenset[tuple[str, int]]:
        """`private_hosts` as (host, port) pairs. Raises `ParameterError` for one that is not host:port."""
        pairs = set()
        for text in self.private_hosts:
            host, _, port = text.rpartition(":")
            if not host or not port.isdigit():
                raise ParameterError(
                    f"VIVIDCOVER_PRIVATE_HOSTS: {text!r} is not host:port.", 'Give ["127.0.0.1:9000"].'
                )
            pairs.add((host.strip("[]"), int(port)))
        return frozenset(pairs)

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.home / 'vividcover.db'}"

    @property
    def shares_stages(self) -> bool:
        """Whether finished stages are kept where workers on other machines find them."""
        if self.share_stages is not None:
            return self.share_stages
        return self.artifacts.startswith("s3://") or self.database.startswith("postgres")

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def voices(self) -> Path:
        return self.home / "voices"

    @property
    def images(self) -> Path:
        return self.home / "images"

    @property
    def weights(self) -> Path:
        return self.weights_dir


@lru_cache
def settings() -> Settings:
    """The settings of this process, read once. Tests call `settings.cache_clear()`.

    Raises `ParameterError` that names every variable whose value cannot be read, with the value.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ParameterError(f"Settings: {'; '.join(_lines(error))}.", SETTINGS_HINT) from None
    except SettingsError as error:  # a list or a mapping that is no JSON
        field = re.search(r'field "(\w+)"', str(error))
        name = f"{PREFIX}{field[1].upper()}" if field else "?"
        mapping = field is not None and str(Settings.model_fields[field[1]].annotation).startswith("dict")
        said = f"{name}={os.environ.get(name, '')}: is not a JSON {'object' if mapping else 'list'}"
        form = '{"name": "value"}' if mapping else '["one", "two"]'
        raise ParameterError(f"Settings: {said}.", f"Give it as {form}, or unset it.") from None


def _lines(error: ValidationError) -> list[str]:
    """`VIVIDCOVER_THREADS='abc': input should be a valid integer, …` of every wrong value."""
    lines = []
    for problem in error.errors():
        # a field with an alias of its own is named by it; others by the prefix and the field
        place = "_".join(str(part) for part in problem["loc"]).upper()
        name = place if place.startswith(PREFIX) else f"{PREFIX}{place}"
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{name}={problem['input']!s}: {message[:1].lower()}{message[1:]}")
    return lines
