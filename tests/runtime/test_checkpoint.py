"""Checkpoints: what is written comes back, what was damaged is named, a failure leaves the old file."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from torch import Tensor

from janus.errors import JanusError
from janus.runtime import checkpoint

STATE = {
    "task": 3,
    "name": "ä/ö",
    "none": None,
    "yes": True,
    "float": 0.1,
    "list": [1, [2.5, "x"], {}],
    "empty": {},
    "optimizer": {
        "state": {0: {"step": torch.tensor(7.0), "m": torch.randn(2, 3)}, 1: {"m": torch.randn(4)}},
        "param_groups": [{"lr": 1e-3, "params": [0, 1]}],
    },
    "bf16": torch.randn(3, 2).to(torch.bfloat16),
    "half": torch.randn(2).half(),
    "double": torch.randn(2, 2).double(),
    "long": torch.arange(5),
    "bool": torch.tensor([True, False]),
    "byte": torch.tensor([[250]], dtype=torch.uint8),
    "scalar": torch.tensor(2.0),
    "nothing": torch.zeros(0, 4),
    "transposed": torch.randn(3, 5).T,
    "pairs": [(torch.ones(2), torch.zeros(2)), (torch.ones(1), torch.zeros(1))],
    "grad": torch.nn.Parameter(torch.randn(2)),
}


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def test_round_trip(path):
    checkpoint.save(path, STATE)
    assert same(STATE, checkpoint.load(path))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert not checkpoint.load(path)["grad"].requires_grad


def test_shared_memory_and_views(path):
    whole = torch.arange(6.0)
    checkpoint.save(path, {"a": whole, "b": whole[2:4], "c": whole})
    assert same({"a": whole, "b": whole[2:4], "c": whole}, checkpoint.load(path))


def test_keys_that_look_alike_do_not_collide(path):
    state = {
        0: torch.ones(1),
        "0": torch.zeros(1),
        "a/b": torch.full((1,), 2.0),
        "a": {"b": torch.full((1,), 3.0)},
    }
    checkpoint.save(path, state)
    assert same(state, checkpoint.load(path))


def test_no_tensor_at_all(path):
    checkpoint.save(path, {"a": [1]})
    assert checkpoint.load(path) == {"a": [1]}


def test_missing(path):
    with pytest.raises(JanusError, match="no checkpoint") as error:
        checkpoint.load(path)
    assert str(path) in str(error.value)


def test_truncated_anywhere(path):
    checkpoint.save(path, {"a": torch.randn(10), "b": {"c": 1}})
    whole = path.read_bytes()
    for length in [*range(0, 40), *range(40, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(JanusError) as error:
            checkpoint.load(path)
        assert str(path) in str(error.value), length
    path.write_bytes(whole + b"\0")
    with pytest.raises(JanusError):
        checkpoint.load(path)


def test_one_flipped_bit_anywhere(path):
    """Every byte of the file: header length, JSON of the header (offsets, names, metadata), tensors."""
    checkpoint.save(path, {"a": torch.randn(5), "b": torch.arange(3), "c": {0: "text", "x": 1.5}})
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    assert json.loads(whole[8:end]) and end < len(whole)  # both parts are there to be damaged
    harmless = 0
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << (i % 8)
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load(path)
        except JanusError as error:
            assert str(path) in str(error) and "\n" not in str(error), i
        else:  # a blank between two tokens of JSON turned into another blank: nothing was changed
            assert same(loaded, {"a": loaded["a"], "b": torch.arange(3), "c": {0: "text", "x": 1.5}}), i
            assert 8 <= i < end and chr(damaged[i]).isspace(), i
            harmless += 1
    assert harmless <= 8


def test_edited_by_hand(path):
    checkpoint.save(path, {"a": torch.zeros(2), "lr": 0.125})
    data = path.read_bytes()
    assert b"0.125" in data
    path.write_bytes(data.replace(b"0.125", b"0.325"))
    with pytest.raises(JanusError, match="was changed after it was written"):
        checkpoint.load(path)


def test_not_ours(path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(JanusError, match="checkpoint"):
        checkpoint.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(JanusError, match="checkpoint"):
        checkpoint.load(path)


def test_a_failing_writer_leaves_the_old_file(path, monkeypatch):
    checkpoint.save(path, {"a": torch.ones(3)})
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(JanusError, match="No space left") as error:
        patched.setattr(Path, "write_bytes", full)
        checkpoint.save(path, {"a": torch.zeros(3)})
    assert str(path) in str(error.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_interrupted_while_writing(path, monkeypatch):
    checkpoint.write_json(path, {"a": 1})

    def interrupted(name: str) -> None:
        Path(name).write_text("{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_atomic(path, interrupted)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_leftovers_of_a_killed_writer_are_removed(path):
    checkpoint.save(path, {"a": 1})
    leftover = path.with_name(f".{path.name}-0123.part")
    leftover.write_bytes(b"half")
    other = path.with_name(".keep")
    other.touch()
    checkpoint.remove_leftovers(path.parent)
    assert path.exists() and other.exists() and not leftover.exists()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(JanusError, match="cannot write"):
        checkpoint.save(tmp_path / "missing" / "c.safetensors", {"a": 1})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_rights(path):
    path.parent.chmod(0o555)
    try:
        with pytest.raises(JanusError, match="Permission denied"):
            checkpoint.save(path, {"a": 1})
    finally:
        path.parent.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_others_may_read_what_the_umask_lets_them(path):
    old = os.umask(0o022)
    try:
        checkpoint.write_json(path, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        checkpoint.save(path, {"a": torch.ones(1)})
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(old)


def test_json(path):
    checkpoint.write_json(path, {"a": [1, None, "ö"]})
    assert json.loads(path.read_text()) == {"a": [1, None, "ö"]}
    with pytest.raises(JanusError, match="not a number"):
        checkpoint.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, None, "ö"]}
