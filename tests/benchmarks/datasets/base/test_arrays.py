from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest

from robustbench_cli.benchmarks.datasets.base.arrays import BadArraysError, PickledError, read_arrays, read_stacked


def saved(**arrays: Any) -> io.BytesIO:
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    return file


def test_arrays_come_back_as_they_were() -> None:
    """In their type and shape; those that nobody asked for are empty."""
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    arrays = read_arrays(saved(images=images, labels=np.array([1, 2])))
    assert np.array_equal(arrays["images"], images)
    assert arrays["images"].dtype == np.uint8
    assert read_arrays(saved(images=images, other=images), ["images"])["other"].size == 0


def test_pickled_objects_are_never_loaded() -> None:
    """Whatever class they are of."""
    with pytest.raises(PickledError, match="'images' holds pickled objects"):
        read_arrays(saved(images=np.array([{}], dtype=object)))


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"\x93NUMPY"])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    """In a clause that a message can end with."""
    with pytest.raises(BadArraysError, match="it is cut off or damaged"):
        read_arrays(io.BytesIO(content))


def test_a_bomb_is_not_unpacked() -> None:
    """An array that is compressed a thousandfold, as no images are."""
    file = io.BytesIO()
    np.savez_compressed(file, images=np.zeros((9000, 10000), dtype=np.uint8))
    assert zipfile.ZipFile(file).infolist()[0].compress_size < 9e5
    with pytest.raises(BadArraysError, match=r"would unpack from .* to 90,000,000 bytes, more than images do"):
        read_arrays(file)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("items", [0, 3, 2**17, 2**17 + 1, 300_000])
def test_arrays_of_any_size_and_order_come_back(save: Any, items: int) -> None:
    """As NumPy itself reads them; an array of more than a mebibyte is unpacked in parts."""
    values = np.arange(items, dtype=np.float64)
    arrays = {"plain": values, "ordered": np.asfortranarray(np.stack([values, -values])), "one": np.float32(items)}
    file = io.BytesIO()
    save(file, **arrays)
    expected = np.load(io.BytesIO(file.getvalue()))
    for name, array in read_arrays(file).items():
        assert np.array_equal(array, expected[name])
        assert (array.dtype, array.flags.f_contiguous) == (expected[name].dtype, expected[name].flags.f_contiguous)
        assert array.flags.writeable


@pytest.mark.parametrize("items", [10, 300_000])
@pytest.mark.parametrize("position", [0.3, 0.5])
def test_a_changed_byte_is_noticed(items: int, position: float) -> None:
    """Wherever it is in the values, in an array of any size."""
    file = saved(images=np.arange(items, dtype=np.float64))
    content = bytearray(file.getvalue())
    start = content.index(b"NUMPY") + 128
    content[start + int(position * 8 * items)] ^= 1
    with pytest.raises(BadArraysError, match="BadZipFile"):
        read_arrays(io.BytesIO(content))


def test_a_member_that_unpacks_to_more_than_it_says_is_refused() -> None:
    """The size in the directory of an archive is its author's word."""
    file = io.BytesIO()
    np.savez_compressed(file, images=np.zeros(1000))
    content = file.getvalue()
    (member,) = zipfile.ZipFile(file).infolist()
    lie = content.replace(member.file_size.to_bytes(4, "little"), (member.file_size - 8).to_bytes(4, "little"))
    with pytest.raises(BadArraysError):
        read_arrays(io.BytesIO(lie))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_many_files_are_not_shared(save: Any) -> None:
    """Equal arrays are unpacked once, and who writes into one changes no other; order and type are NumPy's."""
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.eye(3, 4)), "c": np.asarray(True)}
    buffer = io.BytesIO()
    save(buffer, **arrays)
    first, second = read_arrays(buffer), read_arrays(buffer)
    first["a"][:] = -1
    for name, array in arrays.items():
        assert np.array_equal(second[name], array)
        assert second[name].dtype == array.dtype
        assert second[name].flags.f_contiguous == array.flags.f_contiguous


def test_an_archive_that_numpy_does_not_write_is_read_too() -> None:
    """With a comment at its end, or with something before it, as zipfile allows."""
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3))
    for content in (b"before" + buffer.getvalue(), _with_comment(buffer.getvalue())):
        assert read_arrays(io.BytesIO(content))["a"].tolist() == [0, 1, 2]


def _with_comment(content: bytes) -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"a comment"
    return buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("items", [0, 3, 2**17 + 1])
def test_files_are_stacked_as_numpy_stacks_their_arrays(save: Any, items: int) -> None:
    """In C and in Fortran order, small arrays and such as take the way of large ones."""
    contents = []
    for number in range(3):
        values = np.arange(items, dtype=np.float64) + number
        file = io.BytesIO()
        save(
            file,
            plain=values,
            ordered=np.asfortranarray(np.stack([values, -values])),
            one=np.float32(number),
            other=[1],
        )
        contents.append(file.getvalue())
    loaded = [np.load(io.BytesIO(content)) for content in contents]
    arrays = read_stacked(contents, ["plain", "ordered", "one"])
    assert arrays.pop("other").size == 0
    for name, array in arrays.items():
        expected = np.stack([file[name] for file in loaded])
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("large", [0, 2**18])
@pytest.mark.parametrize(
    "other",
    [{"values": np.ones(3)}, {"values": np.ones(2, dtype=np.float32)}, {"values": np.ones(2), "more": np.ones(2)}],
    ids=str,
)
def test_files_with_other_arrays_are_not_stacked(other: dict[str, Any], large: int) -> None:
    """Of another shape, type or name; nothing is cast or broadcast."""
    padding = np.zeros(large)
    contents = [saved(padding=padding, **arrays).getvalue() for arrays in ({"values": np.ones(2)}, other)]
    with pytest.raises(BadArraysError, match=r"the files differ|'values' differ"):
        read_stacked(contents, ["values", "padding"])


def test_every_damaged_byte_of_a_stacked_file_is_found_or_harmless() -> None:
    """As in a file alone: the arrays are those of the checksums, or there is an error."""
    good = saved(values=np.arange(5.0)).getvalue()
    for position in range(len(good)):
        content = bytearray(good)
        content[position] ^= 0x55
        try:
            alone = read_arrays(io.BytesIO(bytes(content)))
        except BadArraysError:
            with pytest.raises(BadArraysError):
                read_stacked([good, bytes(content)], ["values"])
        else:
            assert all(np.array_equal(array, np.arange(5.0)) for array in alone.values())
