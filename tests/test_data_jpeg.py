"""JPEG through torchvision's operator: Pillow's pixels, Pillow's refusals, for every flavour of file."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from data_images import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from zoo.data import BadSample, decode, jpeg
from zoo.data.decode import decode_image

FLAVOURS = st.fixed_dictionaries(
    {
        "quality": st.sampled_from([10, 50, 75, 90, 95, 100]),
        "subsampling": st.sampled_from([0, 1, 2]),
        "progressive": st.booleans(),
        "optimize": st.booleans(),
        "restart_marker_blocks": st.integers(0, 5),
    }
)
SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))

needs_operator = pytest.mark.skipif(not jpeg.available(), reason="torchvision's decoder is not to be had here")


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def outcome(data: bytes, *, fast: bool, **options):
    """Pixels, or the reason why there are none."""
    with pytest.MonkeyPatch.context() as patch:
        if not fast:
            patch.setattr(decode, "fast_pixels", lambda image, data: None)
        try:
            return decode_image(data, **options)
        except BadSample as error:
            return error.reason


def assert_same(data: bytes, **options) -> None:
    ours, theirs = (outcome(data, fast=fast, **options) for fast in (True, False))
    if isinstance(theirs, str):
        assert isinstance(ours, str)
        assert ours == theirs
    else:
        assert ours.dtype == np.uint8
        assert np.array_equal(ours, theirs)
        assert ours.flags.c_contiguous
        assert ours.flags.writeable


def taken(data: bytes) -> bool:
    """Whether torchvision decodes it."""
    with Image.open(io.BytesIO(data)) as image:
        return jpeg.fast_pixels(image, data) is not None


@needs_operator
@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 99), st.sampled_from(["RGB", "L"]), FLAVOURS)
def test_the_pixels_are_pillows(size, seed, mode, flavour):
    data = encoded(Image.fromarray(photo(*size, seed=seed)).convert(mode), **flavour)
    assert taken(data)
    assert_same(data)


@needs_operator
@settings(max_examples=150, deadline=None)
@given(
    SIZES,
    FLAVOURS,
    st.sampled_from(["cut", "cut and ended", "changed", "inserted", "appended", "twice"]),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=20),
)
def test_damaged_files_end_as_with_pillow(size, flavour, how, where, junk):
    data = encoded(Image.fromarray(photo(*size)), **flavour)
    at = int(where * (len(data) - 1))
    damaged = {
        "cut": data[:at],
        "cut and ended": data[:at] + jpeg.END,
        "changed": data[:at] + junk + data[at + len(junk) :],
        "inserted": data[:at] + junk + data[at:],
        "appended": data + junk + jpeg.END,
        "twice": data + data,
    }[how]
    assert_same(damaged)


@pytest.mark.parametrize("cut", [2, 3, 40, 700])
@pytest.mark.parametrize("flavour", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_truncated_file_is_refused(cut, flavour):
    data = encoded(Image.fromarray(photo()), quality=90, **flavour)[:-cut]
    with pytest.raises(BadSample, match=r"truncated|not an image"):
        decode_image(data)
    assert_same(data)


@needs_operator
@pytest.mark.parametrize("size", [(16, 32), (17, 31), (1, 9)])
@pytest.mark.parametrize("orientation", [*range(10), 65535])
def test_orientations(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(photo(*size)), exif=exif)
    assert taken(data)
    assert_same(data)
    assert_same(data, short_edge=4)


def test_orientation_in_xmp_and_broken_exif():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(Image.fromarray(photo(20, 30)), xmp=xmp)
    assert decode_image(data).shape == (30, 20, 3)
    assert_same(data)
    for junk in (b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"):
        assert_same(encoded(Image.fromarray(photo(20, 30)), exif=junk))


def test_what_is_left_to_pillow():
    image = Image.fromarray(photo(33, 21))
    plain = encoded(image)
    sof = plain.index(b"\xff\xc0")
    twelve_bits = plain[: sof + 4] + b"\x0c" + plain[sof + 5 :]
    two = io.BytesIO()
    image.save(two, "MPO", save_all=True, append_images=[image.rotate(90)])
    for data in (encoded(image.convert("CMYK")), twelve_bits, two.getvalue(), plain + b"after the end", plain[:-2]):
        assert_same(data)
    cmyk = encoded(image.convert("CMYK"))
    assert not taken(cmyk)
    ycck = cmyk.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
    assert ycck != cmyk
    assert_same(ycck)


@needs_operator
def test_colour_profiles_and_rgb_without_a_transform():
    image = Image.fromarray(photo(33, 21))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (encoded(image, icc_profile=profile), encoded(image, keep_rgb=True, subsampling=0)):
        assert taken(data)
        assert_same(data)


def test_without_the_operator_pillow_decodes(monkeypatch):
    data = encoded(Image.fromarray(photo()))
    expected = decode_image(data)
    monkeypatch.setattr(jpeg, "operator", lambda: None)
    assert not jpeg.available()
    assert np.array_equal(decode_image(data), expected)


@pytest.mark.parametrize("wrong", [lambda p: p + 1, lambda p: p[:, :-1], lambda p: (_ for _ in ()).throw(RuntimeError)])
def test_an_operator_with_other_pixels_is_not_used(monkeypatch, wrong):
    def decoder(content, mode, orient):
        return wrong(torch.from_numpy(jpeg._by_pillow(content.numpy().tobytes())).permute(2, 0, 1))

    jpeg._checked.cache_clear()
    monkeypatch.setattr(jpeg, "_load", lambda: decoder)
    try:
        assert jpeg.operator() is None
    finally:
        jpeg._checked.cache_clear()


def test_a_damaged_file_prints_nothing_in_a_worker(capfd, monkeypatch):
    monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: object())
    data = encoded(Image.fromarray(photo(60, 60)), quality=95)
    decode_image(data[: len(data) // 2] + b"\0" * 50 + data[len(data) // 2 :])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("torch_first", [False, True])
@pytest.mark.slow
def test_neither_torch_nor_torchvision_is_imported_for_it(torch_first):
    code = (
        "import sys, io; " + ("import torch; " if torch_first else "") + "from PIL import Image; "
        "b = io.BytesIO(); Image.new('RGB', (9, 9)).save(b, 'JPEG'); "
        "from zoo.data.decode import decode_image; decode_image(b.getvalue()); from zoo.data import jpeg; "
        "print('torch' in sys.modules, 'torchvision' in sys.modules, jpeg.available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(torch_first), "False", str(torch_first and jpeg.available())]


@pytest.mark.parametrize(
    ("height", "width", "edge", "denominator"),
    [(1500, 2000, None, 1), (1500, 2000, 336, 4), (1500, 2000, 376, 2), (2000, 1500, 375, 4), (1500, 2000, 100, 8),
     (375, 500, 188, 1), (375, 500, 187, 2), (10, 9000, 16, 1)],
)  # fmt: skip
def test_how_much_smaller_a_photograph_is_decoded(height, width, edge, denominator):
    assert jpeg.reduction(height, width, edge) == denominator


@pytest.mark.parametrize("flavour", [{}, {"progressive": True}, {"subsampling": 0}])
def test_scaled_decoding_is_a_smaller_picture_of_the_same(flavour):
    source = photo(304, 400)
    data = encoded(Image.fromarray(source), quality=95, **flavour)
    for edge, size in ((150, (152, 200)), (75, (76, 100)), (37, (38, 50))):
        small = decode_image(data, short_edge=edge)
        assert small.shape == (*size, 3)
        expected = np.asarray(Image.fromarray(source).resize(size[::-1], Image.Resampling.BOX)).astype(int)
        assert np.abs(small - expected).mean() < 4
    assert np.array_equal(decode_image(data, short_edge=153), decode_image(data))
    png = io.BytesIO()
    Image.fromarray(source).save(png, "PNG")
    assert decode_image(png.getvalue(), short_edge=37).shape == source.shape


def test_scaled_decoding_refuses_what_full_decoding_refuses():
    data = encoded(Image.fromarray(photo(200, 200)), quality=90)
    for cut in (data[:-2], data[:-900], data[:700]):
        assert outcome(cut, fast=True, short_edge=25) == outcome(cut, fast=True)
    with pytest.raises(BadSample, match="200 x 200 pixels, more than 30,000"):
        decode_image(data, max_pixels=30_000, short_edge=25)
