"""What is listed: links, globs, names with wildcards in them; and that an error is never an empty list."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import listing, stores
from pipeline.errors import PermissionDenied, StorageError
from pipeline.listing import is_glob, list_files
from pipeline.storage import stat, write_atomic


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b/c.mp4", "b/d/e.mp4", "f/g.mp4"):
        write_atomic(str(tmp_path / name), name.encode())
    return tmp_path


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, list[int]], None]:
    """Listing one folder fails, with one error after another."""
    monkeypatch.setattr(stores.time, "sleep", lambda _: None)

    def go(folder: Path, errors: list[int]) -> None:
        original = os.scandir

        def scandir(path: Any) -> Any:
            if str(path) == str(folder) and errors:
                code = errors.pop(0)
                raise OSError(code, os.strerror(code), str(path))
            return original(path)

        monkeypatch.setattr(listing.os, "scandir", scandir)

    return go


def names(root: Path, found: list[Any]) -> list[str]:
    return [file.url.removeprefix(f"{root}/") for file in found]


@pytest.mark.parametrize("pattern", ["", "/**/*.mp4", "/*/*.mp4"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EIO, StorageError), (errno.EMFILE, StorageError), (errno.EACCES, PermissionDenied)],
)
def test_a_folder_that_cannot_be_listed_is_not_empty(folder, refuse, pattern: str, code: int, kind: type) -> None:
    refuse(folder / "b", [code] * 10)
    with pytest.raises(kind, match=f"{folder}/b: ") as caught:
        list_files(f"{folder}{pattern}")
    assert type(caught.value) is kind


def test_the_folder_that_was_asked_for_cannot_be_listed(folder: Path, refuse: Any) -> None:
    refuse(folder, [errno.EIO] * 10)
    with pytest.raises(StorageError, match="Input/output error"):
        list_files(str(folder))


def test_a_stale_handle_is_tried_again(folder: Path, refuse: Any) -> None:
    refuse(folder / "b", [errno.ESTALE] * 2)
    assert names(folder, list_files(str(folder))) == ["a.mp4", "b/c.mp4", "b/d/e.mp4", "f/g.mp4"]
    refuse(folder / "b", [errno.ESTALE] * 10)
    with pytest.raises(StorageError) as caught:
        list_files(str(folder))
    assert caught.value.retryable


def test_a_folder_that_is_removed_meanwhile_is_no_error(folder: Path, refuse: Any) -> None:
    refuse(folder / "b", [errno.ENOENT])
    assert names(folder, list_files(str(folder))) == ["a.mp4", "f/g.mp4"]


@pytest.mark.parametrize("name", [".snapshot", "lost+found"])
def test_hidden_folders_are_not_even_opened(folder: Path, refuse: Any, name: str) -> None:
    (folder / name).mkdir()
    refuse(folder / name, [errno.EACCES] * 10)
    assert len(list_files(str(folder))) == 4
    assert len(list_files(f"{folder}/**/*.mp4")) == 4


def test_a_glob_opens_only_folders_on_the_way(folder: Path, refuse: Any) -> None:
    refuse(folder / "b", [errno.EACCES] * 10)
    assert names(folder, list_files(f"{folder}/f*/*.mp4")) == ["f/g.mp4"]
    assert names(folder, list_files(f"{folder}/*.mp4")) == ["a.mp4"]


def test_links_to_files_are_files(tmp_path: Path) -> None:
    """As in a snapshot of the Hugging Face hub, which holds links only."""
    blob, snapshot = tmp_path / "blobs" / "4f2a", tmp_path / "snapshots" / "main"
    write_atomic(str(blob), b"0123456789")
    snapshot.mkdir(parents=True)
    (snapshot / "a.mp4").symlink_to("../../blobs/4f2a")
    (snapshot / "chain.mp4").symlink_to("a.mp4")
    os.utime(snapshot / "a.mp4", (1, 1), follow_symlinks=False)
    for place in (snapshot, f"{snapshot}/*.mp4", f"{tmp_path}/snapshots/*/*.mp4", f"{tmp_path}/**/*.mp4"):
        found = list_files(str(place))
        assert names(snapshot, found) == ["a.mp4", "chain.mp4"], place
        assert [file.size_bytes for file in found] == [10, 10]
        assert found == [stat(file.url) for file in found]
    before = list_files(str(snapshot))[0]
    os.utime(blob, (99, 99))
    assert list_files(str(snapshot))[0].version != before.version


def test_links_to_folders_are_followed_at_the_top_only(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "b" / "round").symlink_to(folder)
    assert names(folder, list_files(str(folder))) == ["a.mp4", "b/c.mp4", "b/d/e.mp4", "f/g.mp4"]
    top = tmp_path_factory.mktemp("links") / "top"
    top.symlink_to(folder / "b")
    for place in (top, f"{top}/**/*.mp4"):
        assert names(top, list_files(str(place))) == ["c.mp4", "d/e.mp4"]


def test_a_glob_that_names_the_level_follows_links_to_folders(folder: Path) -> None:
    (folder / "linked").symlink_to("f")
    assert names(folder, list_files(f"{folder}/*/g.mp4")) == ["f/g.mp4", "linked/g.mp4"]
    assert names(folder, list_files(f"{folder}/**/g.mp4")) == ["f/g.mp4"]


def test_links_that_lead_nowhere_are_left_out(folder: Path) -> None:
    (folder / "gone.mp4").symlink_to("nowhere.mp4")
    (folder / "self.mp4").symlink_to("self.mp4")
    (folder / "through.mp4").symlink_to("a.mp4/below.mp4")
    assert "a.mp4" in names(folder, list_files(str(folder)))
    assert len(list_files(str(folder))) == 4
    assert names(folder, list_files(f"{folder}/*.mp4")) == ["a.mp4"]


@pytest.fixture(params=["file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    if request.param == "file":
        return str(tmp_path), {}
    if request.param == "memory":
        return f"memory://{tmp_path.name}", {}
    server = request.getfixturevalue("s3")
    return server["url"], server["storage"]


def test_what_is_hidden_is_told_behind_the_fixed_part_of_a_glob(place: tuple[str, dict[str, Any]]) -> None:
    root, options = place
    for name in (".cache/v/a.mp4", ".cache/v/.b.mp4", ".cache/v/w/c.mp4", ".cache/v/.w/d.mp4"):
        write_atomic(f"{root}/{name}", b"x", options)
    start = f"{root}/.cache/v"
    assert [file.url for file in list_files(f"{start}/*.mp4", options)] == [f"{start}/a.mp4"]
    assert [file.url for file in list_files(f"{start}/**/*.mp4", options)] == [f"{start}/a.mp4", f"{start}/w/c.mp4"]
    assert list_files(f"{root}/*/v/*.mp4", options) == []


def test_a_name_with_wildcards_that_exists_is_no_glob(place: tuple[str, dict[str, Any]]) -> None:
    root, options = place
    write_atomic(f"{root}/clips [2024]/a.mp4", b"x", options)
    write_atomic(f"{root}/clips 2/b.mp4", b"x", options)
    assert not is_glob(f"{root}/clips [2024]", options)
    assert not is_glob(f"{root}/clips [2024]/a.mp4", options)
    assert not is_glob(f"{root}/none", options)
    assert [file.url for file in list_files(f"{root}/clips [2024]", options)] == [f"{root}/clips [2024]/a.mp4"]
    assert is_glob(f"{root}/clips [24]", options)
    if not options and "://" not in root:  # a store is asked for the whole path only
        assert [file.url for file in list_files(f"{root}/clips [2024]/*.mp4")] == [f"{root}/clips [2024]/a.mp4"]
        assert [file.url for file in list_files(f"{root}/clips [2024]/**")] == [f"{root}/clips [2024]/a.mp4"]
    assert [file.url for file in list_files(f"{root}/clips [24]/*", options)] == [f"{root}/clips 2/b.mp4"]


def test_globs_as_fsspec_understands_them(folder: Path) -> None:
    """Ours is another for the local disk; both find the same."""
    fs, _ = stores.filesystem(str(folder))
    for pattern in ("*", "**", "*.mp4", "b/**", "**/d/*.mp4", "[bf]/?.mp4", "b/*/e.mp4", "*/*", "x*/**", "**/*"):
        expected = sorted(
            name for name, entry in fs.glob(f"{folder}/{pattern}", detail=True).items() if entry["type"] == "file"
        )
        assert [file.url for file in list_files(f"{folder}/{pattern}")] == expected, pattern
