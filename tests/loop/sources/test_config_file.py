"""The configuration file: read once, and watched for another content."""

import asyncio
from pathlib import Path

import pytest

from tests.loop.rig import until
from uproxy.model.faults import BadInput
from uproxy.sources import config_file
from uproxy.sources.config_file import ConfigFile

PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def never_by_chance(monkeypatch):
    """Only what is watched is noticed."""
    monkeypatch.setattr(config_file, "_RETRY_S", 3600.0)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.conf"
    path.write_text("mode: nftables\n")
    return path


async def change_of(config: ConfigFile, act) -> None:
    """Returns when the change that `act` makes was noticed."""
    noticed = asyncio.ensure_future(config.changed())
    await asyncio.sleep(0)
    act()
    await asyncio.wait_for(noticed, PATIENCE_S)


@pytest.mark.parametrize(
    "text", ['{"mode": "ipvs", "ipvs": {}}', "# words\nmode: ipvs\nipvs: {}\n", "---\nmode: ipvs\nipvs: {}"]
)
def test_yaml_and_json_are_read(file, text):
    file.write_text(text)
    assert ConfigFile(str(file)).value() == {"mode": "ipvs", "ipvs": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mode: [", "config.conf: line 2, column 1: "),
        ("mode: a\nmode: b", "line 2, column 1: "),
        ("mode: a\n---\nmode: b", "a second document begins here"),
        ('{"mode": }', "line 1: "),
    ],
)
def test_what_is_neither_is_one_clear_line(file, text, words):
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        ConfigFile(str(file)).value()
    (line,) = str(caught.value).splitlines()
    assert words in line


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path, file):
    with pytest.raises(BadInput, match="absent: cannot be read: No such file or directory"):
        ConfigFile(str(tmp_path / "absent"))
    file.write_bytes(b"a: \xff")
    with pytest.raises(BadInput, match=r"is not UTF-8 text \(byte 3\)"):
        ConfigFile(str(file))


async def test_a_write_is_a_change(file):
    await change_of(ConfigFile(str(file)), lambda: file.write_text("mode: ipvs\n"))


async def test_a_replacement_is_a_change(file):
    def replace():
        other = file.with_name("other")
        other.write_text("mode: ipvs\n")
        other.rename(file)

    await change_of(ConfigFile(str(file)), replace)


def config_map(folder: Path, version: int, text: str) -> Path:
    """Lay a ConfigMap volume out as the kubelet does, and swap `..data` to this version of it."""
    data = folder / f"..version-{version}"
    data.mkdir()
    (data / "config.conf").write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(data.name)
    link.rename(folder / "..data")
    file = folder / "config.conf"
    if not file.is_symlink():
        file.symlink_to(Path("..data", "config.conf"))
    return file


async def test_a_config_maps_swap_is_a_change(tmp_path):
    config = ConfigFile(str(config_map(tmp_path, 1, "mode: nftables\n")))
    await change_of(config, lambda: config_map(tmp_path, 2, "mode: ipvs\n"))


async def test_the_same_content_again_is_none(tmp_path, monkeypatch):
    config = ConfigFile(str(config_map(tmp_path, 1, "mode: nftables\n")))
    looks, looked = 0, config._watch_and_look

    def look(watcher):
        nonlocal looks
        looks += 1
        return looked(watcher)

    monkeypatch.setattr(config, "_watch_and_look", look)
    noticed = asyncio.ensure_future(config.changed())
    await until(lambda: looks == 1, "the first look")
    config_map(tmp_path, 2, "mode: nftables\n")
    await until(lambda: looks > 1, "a look at what was swapped")
    await asyncio.sleep(0)
    assert not noticed.done()
    config_map(tmp_path, 3, "mode: ipvs\n")
    await asyncio.wait_for(noticed, PATIENCE_S)
