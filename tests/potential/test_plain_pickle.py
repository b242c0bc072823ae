"""Pickles of torch as plain data; those of strangers without their code."""

import io
import math
import os
import pickle
import tracemalloc

import pytest
import torch

from openmm_cgkd.potential.archive import MEGABYTE, ArchiveError, read_archive
from openmm_cgkd.potential.plain_pickle import Record, read_plain, tensors_of
from tests.cases.old_files import FOLDER


def saved(content, path):
    torch.save(content, path)
    return read_archive(path, "a file")


def same(found, expected):
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            same(found[name], value)
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_a_checkpoint_of_lightning_reads_as_torch_reads_it():
    path = FOLDER / "interrupted" / "last.ckpt"
    found = read_plain(read_archive(path, "a file"))
    same(found, torch.load(path, weights_only=True))


def test_tensors_of_all_kinds(tmp_path):
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    content = {
        "transposed": base.t(),
        "part": base[1:3, ::2],
        "shared": [base, base],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "integers": torch.arange(5),
        "truths": torch.tensor([True, False]),
        "plain": (1, -(2**40), 2.5, None, True, "ä", {"a": []}, (1, 2), (1, 2, 3, 4)),
        7: "a number as name",
    }
    same(read_plain(saved(content, tmp_path / "a.pt")), content)


@pytest.mark.parametrize("name", ["student.pt", "student-fast.pt"])
def test_scripts_become_records(name):
    """The tensors of scripts of an earlier version, of which no class is there any more."""
    from openmm_cgkd import operators  # noqa: F401  torch needs them to read the fast file

    found = read_plain(read_archive(FOLDER / name, "a file"))
    assert type(found) is Record
    same(dict(sorted(tensors_of(found).items())),
         dict(sorted(torch.jit.load(FOLDER / name).state_dict().items())))  # fmt: skip


class Command:
    """A pickle that runs a command when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def protocol2(content):
    data = io.BytesIO()
    pickle.Pickler(data, 2).dump(content)
    return data.getvalue()


def nested(n):
    return b"\x80\x02" + n * b"]" + (n - 1) * b"a" + b"."


def laughing(n):
    """A list of ten times a list of ten times a list, n deep."""
    text = b"\x80\x02(]q\x00"
    for k in range(n):
        text += b"](" + 10 * bytes([ord("h"), k]) + b"eq" + bytes([k + 1])
    return text + b"t."


STORAGE = b"ctorch\nFloatStorage\n"


def tensor(size, stride, offset=0, count=2):
    """A tensor over a storage of two numbers."""
    numbers = [b"J" + n.to_bytes(4, "little", signed=True) for n in (*size, *stride)]
    half = len(size)
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage" + STORAGE
        + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ" + count.to_bytes(4, "little") + b"tQ"
        + b"J" + offset.to_bytes(4, "little", signed=True)
        + b"(" + b"".join(numbers[:half]) + b"t(" + b"".join(numbers[half:]) + b"t\x89)tR."
    )  # fmt: skip


PICKLES = {
    "a command": (protocol2(Command("touch VICTIM")), "system', which is not plain data"),
    "a function of torch": (b"\x80\x02ctorch\nload\n(X\x01\x00\x00\x00xtR.", "not plain data"),
    "attributes of a function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.", "damaged"),
    "attributes of a tensor": (tensor([2], [1])[:-1] + b"}b.", "damaged"),
    "a long number as name": (b"\x80\x02}\x8a\xff" + b"\x01" * 255 + b"K\x01s.", "damaged"),
    "a tuple as name": (b"\x80\x02}K\x01K\x01\x86K\x01s.", "damaged"),
    "a number in words": (b"I" + b"9" * 100_000 + b"\n.", "damaged"),
    "a long name": (b"\x80\x02X\xff\xff\xff\x7fa.", "damaged"),
    "a later protocol": (pickle.dumps([1], 4), "damaged"),
    "deep lists": (nested(200_000), "too deep"),
    "laughs": (laughing(30), "too many"),
    "a list within itself": (b"\x80\x02]q\x00h\x00a.", "too deep"),
    "a number too many": (b"\x80\x02K\x01K\x02.", "damaged"),
    "nothing": (b"", "damaged"),
    "half": (protocol2({"a": [1, 2, 3]})[:-4], "damaged"),
    "a table of 2 MB": (protocol2("a" * 2 * MEGABYTE), "more than 1 MB"),
    "a tensor beyond its numbers": (tensor([3], [1]), "damaged"),
    "a tensor before its numbers": (tensor([2], [1], -1), "damaged"),
    "a tensor without end": (tensor([2**30], [0]), "damaged"),
    "a tensor backwards": (tensor([2], [-1], 1), "damaged"),
    "another number of numbers": (tensor([2], [1], count=3), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_of_strangers(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data, reason = PICKLES[name]
    if name == "a command":  # it works where it is read with pickle
        pickle.loads(data)
        (tmp_path / "VICTIM").unlink()
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=reason):
        read_plain({"data.pkl": data, "data/0": bytes(8)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * MEGABYTE
    assert not list(tmp_path.iterdir())


def test_a_far_place_costs_no_memory():
    """`pickle` fills all places before it."""
    tracemalloc.start()
    assert read_plain({"data.pkl": b"\x80\x02K\x01r\xff\xff\xff\x7f."}) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEGABYTE


def test_the_tensor_of_these_tests_is_one():
    found = read_plain({"data.pkl": tensor([2], [1]), "data/0": bytes(4) + b"\0\0\x80\x3f"})
    same(found, torch.tensor([0.0, 1.0]))
    for others in ({"byteorder": b"big"}, {"data/0": bytes(9)}):
        with pytest.raises(ArchiveError, match=r"damaged|order of bytes"):
            read_plain({"data.pkl": tensor([2], [1]), "data/0": bytes(8), **others})
