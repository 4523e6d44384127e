"""What a repo may hold: names together, sizes by kind, the heads of files; each refusal names the file and why."""

from __future__ import annotations

import json
import os

import pytest
from hub_fixtures import write_bundle, write_manifest
from zoo_registry import IntegrityError

from zoo.hub import contents
from zoo.hub.base import RepoFile
from zoo.hub.folder import FolderHub


def files(*names: str, size: int = 10) -> list[RepoFile]:
    return [RepoFile(path=name, size=size) for name in names]


NAMES = {
    "case": (("Config.json", "config.json"), "has both 'Config.json' and 'config.json'"),
    "Unicode forms": (("caf\u00e9.json", "cafe\u0301.json"), "which some disks cannot tell apart"),
    "case in a folder": (("A/x.json", "a/x.json"), "has both 'A/x.json' and 'a/x.json'"),
    "a file that is a folder": (("a", "a/b.json"), "'a' is a file and the folder of 'a/b.json'"),
    "a file that is a folder elsewhere": (("a/b/c.json", "A"), "'A' is a file and the folder of 'a/b/c.json'"),
    "a path out": (("../x.json",), "not a safe path"),
    "a device of Windows": (("con.json",), "not a safe path"),
    "a line break": (("a\nb.json",), "not a safe path"),
    "too many": (tuple(f"{n}.json" for n in range(contents.MOST_FILES + 1)), "more than 10000 files"),
}


@pytest.mark.parametrize("row", NAMES)
def test_names_that_do_not_go_together_are_refused(row):
    names, says = NAMES[row]
    with pytest.raises(IntegrityError, match=says):
        contents.check_files(files(*names), "me/x")
    contents.check_files(files("config.json", "adapter/config.json", "a.json", "a/b.json"), "me/x")


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("zoo.json", contents.JSON_LIMIT),
        ("manifest.json", contents.JSON_LIMIT),
        ("adapter/config.json", contents.JSON_LIMIT),
        ("tokenizer.json", contents.OTHER_LIMIT),
        ("confusion.png", contents.OTHER_LIMIT),
        ("model.safetensors", None),
    ],
)
def test_each_kind_of_file_has_its_size(name, limit):
    contents.check_files(files(name, size=limit or 10**15), "me/x")
    if limit is not None:
        with pytest.raises(IntegrityError, match=f"{name} has {limit + 1} bytes, a file of its kind may have {limit}"):
            contents.check_files(files(name, size=limit + 1), "me/x")


def header(length: int, rest: bytes = b"{}") -> bytes:
    return length.to_bytes(8, "little") + rest


HEADS = {
    "empty": (b"", "is no safetensors file"),
    "seven bytes": (b"1234567", "is no safetensors file"),
    "a header longer than the file": (header(2**40), "1099511627776 for its header"),
    "a header as long as can be written": (header(2**64 - 1), "is no safetensors file"),
    "a pickle": (b"\x80\x04cposix\nsystem\n" * 9, "is no safetensors file"),
    "a header that is no object": (header(2, b"[]"), "is no safetensors file"),
}


@pytest.mark.parametrize("row", HEADS)
def test_a_file_that_is_no_safetensors_file_is_refused_by_its_head(tmp_path, row):
    data, says = HEADS[row]
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(IntegrityError, match=f"it: model.safetensors {says}|{says}"):
        contents.check_content(tmp_path / "model.safetensors", "model.safetensors", "it")


def test_a_giant_header_is_refused_before_it_is_read(tmp_path):
    spot = tmp_path / "model.safetensors"
    spot.write_bytes(header(contents.HEADER_LIMIT + 1))
    os.truncate(spot, contents.HEADER_LIMIT + 100)  # sparse
    with pytest.raises(IntegrityError, match=f"has a header of {contents.HEADER_LIMIT + 1} bytes"):
        contents.check_header(spot, "it")


@pytest.mark.parametrize("key", contents.CODE_KEYS)
def test_a_config_that_asks_for_code_is_refused_on_every_way_in(tmp_path, bundle, key):
    from zoo.hub.files import verify_folder

    (bundle / "config.json").write_text(json.dumps({"architecture": "x", key: {"AutoModel": "code.Model"}}))
    write_manifest(bundle)
    says = rf"config.json asks for code of its own \({key}\), which is never run"
    with pytest.raises(IntegrityError, match=says):
        verify_folder(bundle, "it")
    hub = FolderHub(tmp_path / "hub")
    hub.push(bundle, "me/x", message="by another program")
    for call in (lambda: hub.pull("me/x"), lambda: hub.file("me/x", "config.json")):
        with pytest.raises(IntegrityError, match=says):
            call()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"auto_map": null}', '{"auto_map": {}}', "[" * 100_000])
def test_a_config_that_asks_for_none_is_left_to_its_reader(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    contents.check_content(tmp_path / "config.json", "config.json", "it")


def test_a_file_that_grew_is_not_hashed_to_its_end(tmp_path):
    from zoo.hub.files import verify_folder

    folder = write_bundle(tmp_path / "b")
    os.truncate(folder / "model.safetensors", 2**40)  # sparse; hashing it would take an hour
    with pytest.raises(IntegrityError, match=r"model.safetensors is damaged: .*1099511627776 bytes"):
        verify_folder(folder, "it")
