"""Manifests on a real disk, changed in every way that editors, tools and ConfigMaps change them."""

import asyncio
import contextlib
import io
import json
import os
import resource
import shutil
import socket
from pathlib import Path

import pytest

from tests.loop.sources.observer import Observer
from uproxy.model.events import Faulted, Synced, Upsert
from uproxy.sources.files import FileSource
from uproxy.sources.watcher import Watcher

SERVICE = "kind: Service\napiVersion: v1\nmetadata: {name: %s}\nspec: {ports: [{port: %s}]}\n"
MAX_QUEUED_EVENTS = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def services(**ports: int | str) -> str:
    return "---\n".join(SERVICE % item for item in ports.items())


@contextlib.asynccontextmanager
async def watching(*paths: Path):
    """A running source that has sent its first load."""
    seen = Observer()
    task = asyncio.get_running_loop().create_task(FileSource([str(path) for path in paths], seen.emit).run())
    try:
        await seen.until(lambda: seen.synced)
        yield seen
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def replace(path: Path, text: str) -> None:
    """As editors and `kubectl` plugins write: a new file, renamed over the old."""
    new = path.with_name(".new")
    new.write_text(text)
    new.rename(path)


@contextlib.contextmanager
def no_free_descriptor():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as taken:
        lowest_free = taken.enter_context(Path("/dev/null").open()).fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "manifests" / "f.yaml"
    path.parent.mkdir()
    path.write_text(services(a=1, b=1))
    return path


async def test_the_first_load_comes_whole_and_ends_with_synced(file):
    async with watching(file) as seen:
        assert [type(event) for event in seen.events] == [Upsert, Upsert, Faulted, Synced]
        assert seen.ports == {"a": 1, "b": 1}
        assert not seen.faults


async def test_writing_in_place_sends_only_what_changed(file):
    async with watching(file) as seen:
        before = len(seen.events)
        file.write_text(services(a=1, b=2, c=3))

        await seen.until(lambda: seen.ports == {"a": 1, "b": 2, "c": 3})
        assert [event.object.key.name for event in seen.events[before:]] == ["b", "c"]


async def test_a_rename_over_the_file(file):
    async with watching(file) as seen:
        for port in (2, 3):
            replace(file, services(a=port))
            await seen.until(lambda port=port: seen.ports == {"a": port})


async def test_a_change_while_the_first_load_is_on_its_way_is_not_lost(file):
    source = FileSource([str(file)], (seen := Observer()).emit)
    source.load()
    file.write_text(services(a=5))
    task = asyncio.get_running_loop().create_task(source.run())

    await seen.until(lambda: seen.synced)
    task.cancel()

    assert seen.ports == {"a": 5}


async def test_a_config_maps_symlink_swap(tmp_path):
    """As kubelet's AtomicWriter does it: FILE -> ..data/FILE, and ..data is renamed over."""
    volume = tmp_path / "config"
    (volume / "..1").mkdir(parents=True)
    (volume / "..1" / "f.yaml").write_text(services(a=1))
    (volume / "..data").symlink_to("..1")
    (volume / "f.yaml").symlink_to("..data/f.yaml")
    async with watching(volume / "f.yaml") as one_file, watching(volume) as directory:
        for version in (2, 3):
            (volume / f"..{version}").mkdir()
            (volume / f"..{version}" / "f.yaml").write_text(services(a=version))
            (volume / "..data_tmp").symlink_to(f"..{version}")
            (volume / "..data_tmp").rename(volume / "..data")
            shutil.rmtree(volume / f"..{version - 1}")

            for seen in (one_file, directory):
                await seen.until(lambda seen=seen, port=version: seen.ports == {"a": port})
                assert not seen.faults


async def test_a_link_to_a_file_elsewhere_follows_the_file_and_the_link(tmp_path, file):
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    async with watching(link) as seen:
        file.write_text(services(a=2))
        await seen.until(lambda: seen.ports == {"a": 2})
        other = tmp_path / "other.yaml"
        other.write_text(services(a=3))
        link.unlink()
        link.symlink_to(other)
        await seen.until(lambda: seen.ports == {"a": 3})


async def test_a_file_that_is_being_written_counts_when_the_writer_closes_it(file):
    """`kubectl get ... > FILE` empties it long before it writes; nothing may vanish meanwhile."""
    marker = file.with_name("marker.yaml")
    async with watching(file.parent) as seen:
        with file.open("w") as writer:
            writer.write(services(a=2))
            writer.flush()
            marker.write_text(services(marker=1))
            await seen.until(lambda: "marker" in seen.ports)
            assert seen.ports == {"a": 1, "b": 1, "marker": 1}
            writer.write("---\n" + services(b=2))
        await seen.until(lambda: seen.ports == {"a": 2, "b": 2, "marker": 1})


async def test_a_writer_that_never_closes_does_not_hide_its_changes(file):
    async with watching(file) as seen:
        with file.open("w") as writer:
            writer.write(services(a=2))
            writer.flush()
            await seen.until(lambda: seen.ports == {"a": 2})


async def test_a_truncated_document_removes_nothing(file):
    async with watching(file) as seen:
        replace(file, services(a=2) + "---\nkind: Service\nmetadata: {na")

        await seen.until(lambda: seen.ports["a"] == 2)
        assert seen.ports == {"a": 2, "b": 1}
        assert len(seen.faults) == 1
        assert f"{file}, document 2: line " in seen.faults[0]

        replace(file, services(a=2, b=3))
        await seen.until(lambda: seen.ports == {"a": 2, "b": 3})
        assert not seen.faults


async def test_a_faulty_object_keeps_its_last_good_version_until_it_is_corrected(file):
    async with watching(file) as seen:
        replace(file, services(a=70000, b=2))
        await seen.until(lambda: seen.ports == {"a": 1, "b": 2})
        assert seen.faults == [
            f"{file}, document 1: Service default/a: spec.ports[0].port: must be 1 to 65535, not 70000"
        ]

        replace(file, services(a=7, b=2))
        await seen.until(lambda: seen.ports == {"a": 7, "b": 2})
        assert not seen.faults


async def test_bytes_that_are_no_text_remove_nothing(file):
    async with watching(file) as seen:
        file.write_bytes(b"\xff\xfe\x00")
        await seen.until(lambda: bool(seen.faults))
        assert seen.faults == [f"{file}, document 1: line 1: is not UTF-8 text"]
        assert seen.ports == {"a": 1, "b": 1}


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
async def test_what_is_no_file_is_a_fault_and_holds_nothing_up(file, kind):
    """Where the file was, and beside it."""
    async with watching(file.parent) as seen:
        made = file.parent / "odd.yaml"
        with socket.socket(socket.AF_UNIX) as bound:
            if kind == "fifo":
                os.mkfifo(made)
            elif kind == "socket":
                bound.bind(str(made))
            else:
                made.symlink_to("/dev/zero")
            replace(file, services(a=1, b=2))
            await seen.until(lambda: seen.ports == {"a": 1, "b": 2} and bool(seen.faults))
        assert seen.faults[0].startswith(f"{made}: cannot be read: ")
        os.replace(made, file)  # noqa: PTH105
        await seen.until(lambda: any(fault.startswith(f"{file}: cannot be read: ") for fault in seen.faults))
        assert seen.ports == {"a": 1, "b": 2}


async def test_an_empty_file_means_no_objects(file):
    async with watching(file) as seen:
        replace(file, "")
        await seen.until(lambda: seen.ports == {})
        assert not seen.faults


async def test_a_deleted_file_takes_its_objects_along_and_may_come_back(file):
    async with watching(file) as seen:
        file.unlink()
        await seen.until(lambda: bool(seen.faults))
        assert seen.ports == {}
        assert seen.faults == [f"{file}: no such file or directory"]

        file.write_text(services(a=2))
        await seen.until(lambda: not seen.faults)
        assert seen.ports == {"a": 2}


async def test_files_come_and_go_in_a_watched_directory(file):
    directory = file.parent
    async with watching(directory) as seen:
        service = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "c"}}
        (directory / "g.json").write_text(json.dumps(service | {"spec": {"ports": [{"port": 3}]}}))
        await seen.until(lambda: "c" in seen.ports)
        (directory / "g.json").rename(directory / "g.json.bak")
        await seen.until(lambda: "c" not in seen.ports)
        assert not seen.faults


@pytest.mark.parametrize("removed", ["manifests", "."])
async def test_a_directory_that_is_removed_and_made_again(tmp_path, file, removed):
    (tmp_path / "root").mkdir()
    shutil.move(file.parent, tmp_path / "root" / "manifests")
    directory = tmp_path / "root" / "manifests"
    async with watching(directory) as seen:
        for port in (2, 3):
            shutil.rmtree(directory.parent / removed)
            await seen.until(lambda: seen.ports == {})
            assert seen.faults == [f"{directory}: no such file or directory"]
            directory.mkdir(parents=True)
            (directory / "f.yaml").write_text(services(a=port))
            await seen.until(lambda port=port: seen.ports == {"a": port})
            assert not seen.faults


async def test_a_directory_above_that_is_replaced_by_renaming(tmp_path):
    for version in (1, 2):
        (tmp_path / str(version) / "sub").mkdir(parents=True)
        (tmp_path / str(version) / "sub" / "f.yaml").write_text(services(a=version))
    (tmp_path / "1").rename(tmp_path / "now")
    async with watching(tmp_path / "now" / "sub" / "f.yaml") as seen:
        (tmp_path / "now").rename(tmp_path / "old")
        (tmp_path / "2").rename(tmp_path / "now")

        await seen.until(lambda: seen.ports == {"a": 2})


async def test_a_path_that_does_not_exist_yet_is_waited_for(tmp_path):
    path = tmp_path / "not" / "yet" / "f.yaml"
    async with watching(path) as seen:
        assert seen.faults == [f"{path}: no such file or directory"]
        path.parent.mkdir(parents=True)
        path.write_text(services(a=1))

        await seen.until(lambda: seen.ports == {"a": 1})


async def test_more_events_than_the_kernel_keeps_lose_nothing(file):
    """A queue overflow is only one more event: every look compares everything."""
    noise = file.with_name("noise")
    async with watching(file) as seen:
        for number in range(MAX_QUEUED_EVENTS):  # without giving the source a chance to read
            (noise if number % 2 else noise.with_suffix(".2")).touch()
        file.write_text(services(a=9))

        await seen.until(lambda: seen.ports == {"a": 9})


def test_watches_that_are_no_longer_needed_are_given_back(tmp_path):
    with Watcher() as watcher:
        for number in range(20):
            directory = tmp_path / str(number)
            directory.mkdir()
            assert watcher.watch({directory: True}) == (True, ())
            assert watcher.watch({directory: True}) == (False, ())

        fdinfo = Path(f"/proc/self/fdinfo/{watcher._inotify.fd}").read_text()
        assert fdinfo.count("inotify wd:") == 1


async def test_a_watcher_looks_again_by_itself_when_asked_to():
    with Watcher() as watcher:
        await watcher.changed(at_most_s=0.001)


class TestLoad:
    def load(self, *paths: Path | str) -> tuple[FileSource, list[str]]:
        source = FileSource([str(path) for path in paths], lambda event: pytest.fail(f"emitted {event}"))
        return source, list(map(str, source.load()))

    def names(self, source: FileSource) -> list[str]:
        return [known.key.name for known in source.objects]

    def test_a_directory_means_its_manifests_by_name_without_hidden_or_nested_ones(self, tmp_path):
        for name in ("b.yml", "a.yaml", "c.json", ".hidden.yaml", "notes.txt"):
            (tmp_path / name).write_text(services(**{name.strip(".").split(".")[0]: 1}))
        (tmp_path / "c.json").write_text('{"kind": "ConfigMap", "apiVersion": "v1"}')
        (tmp_path / "sub.yaml").mkdir()
        (tmp_path / "sub.yaml" / "d.yaml").write_text(services(d=1))

        source, faults = self.load(tmp_path)

        assert not faults
        assert self.names(source) == ["a", "b"]
        assert source.skipped == {"ConfigMap": 1}

    def test_a_path_given_twice_is_read_once(self, file, monkeypatch):
        monkeypatch.chdir(file.parent)

        source, faults = self.load(file, file.parent, "f.yaml", "./f.yaml")

        assert not faults
        assert self.names(source) == ["a", "b"]

    def test_every_fault_of_every_path_is_reported(self, tmp_path, file):
        (tmp_path / "g.yaml").write_text(services(a=1, c=0))

        _, faults = self.load(tmp_path / "nowhere", file, tmp_path / "g.yaml", file / "beneath")

        assert faults == [
            f"{tmp_path}/nowhere: no such file or directory",
            f"{file}/beneath: no such file or directory",
            f"{tmp_path}/g.yaml, document 1: Service default/a: is defined twice; "
            f"the one in {file}, document 1, is used",
            f"{tmp_path}/g.yaml, document 2: Service default/c: spec.ports[0].port: "
            "must be 1 to 65535, not 0",
        ]

    def test_a_dash_is_standard_input_read_once(self, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(services(a=1).encode())))
        source, faults = self.load("-", "-")

        assert not faults
        source.load()
        assert self.names(source) == ["a"]

    def test_a_pipe_is_read_once(self, tmp_path):
        """`-f <(helm template .)`: a second read would wait for ever."""
        reader, writer = os.pipe()
        os.write(writer, services(a=1).encode())
        os.close(writer)
        try:
            source, faults = self.load(f"/dev/fd/{reader}")
            source.load()
        finally:
            os.close(reader)

        assert not faults
        assert self.names(source) == ["a"]

    def test_a_link_to_itself_is_a_fault_and_harms_no_other_file(self, tmp_path, file):
        (file.parent / "g.yaml").symlink_to("g.yaml")

        source, faults = self.load(file.parent)

        assert faults == [f"{file.parent}/g.yaml: cannot be read: Too many levels of symbolic links"]
        assert self.names(source) == ["a", "b"]

    @pytest.mark.parametrize("given", ["file", "directory"])
    def test_what_was_there_stays_while_no_descriptor_is_free(self, file, given):
        path = file if given == "file" else file.parent
        source, _ = self.load(path)
        file.write_text(services(a=1, b=1, c=3))
        with no_free_descriptor():
            (fault, *_) = source.load()

        assert str(fault) == f"{path}: cannot be read: Too many open files"
        assert self.names(source) == ["a", "b"]
        assert source.load() == ()
        assert self.names(source) == ["a", "b", "c"]

    def test_a_link_that_leads_nowhere_is_a_fault(self, tmp_path):
        (tmp_path / "f.yaml").symlink_to("nowhere")

        _, faults = self.load(tmp_path)

        assert faults == [f"{tmp_path}/f.yaml: no such file or directory"]
