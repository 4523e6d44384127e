"""Every rule of zoo.data.decode, on files made here."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from data_images import photo, png_header
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.data import BadSample
from zoo.data.decode import decode_image


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_formats_by_content_not_by_suffix(tmp_path, format):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(Image.fromarray(photo()), format))
    pixels = decode_image(path)
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    tolerance = {"GIF": 60, "JPEG": 40, "WEBP": 40}.get(format, 0)
    assert np.abs(pixels.astype(int) - photo()).mean() <= tolerance / 4


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # a white corner, top left
    back = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}[orientation]  # fmt: skip
    stored = Image.fromarray(upright)
    stored = stored if back is None else stored.transpose(back)
    lossless = {"lossless": True} if format == "WEBP" else {}
    pixels = decode_image(encoded(stored, format, exif=exif, **lossless))
    assert pixels.shape == upright.shape
    assert pixels[:7, :7].min() > 200
    assert pixels[:, 9:].max() < 60


def test_grey_and_bilevel_become_rgb():
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    assert np.array_equal(decode_image(encoded(Image.fromarray(grey))), np.repeat(grey[:, :, None], 3, 2))
    bits = Image.fromarray((grey > 99).astype(np.uint8) * 255).convert("1")
    assert sorted(np.unique(decode_image(encoded(bits)))) == [0, 255]


def test_palette_is_looked_up():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert decode_image(encoded(image))[0, 0].tolist() == [10, 200, 30]


def test_alpha_is_composited_on_white():
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    assert decode_image(encoded(image))[0].tolist() == [[200, 0, 0], [255, 255, 255]]
    half = Image.new("LA", (1, 1), (0, 128))
    assert decode_image(encoded(half))[0, 0].tolist() == [127, 127, 127]


def test_transparent_palette_and_transparent_colour_are_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([9, 9, 9, 10, 200, 30])
    image.putpixel((1, 0), 1)
    assert decode_image(encoded(image, transparency=0))[0].tolist() == [[255, 255, 255], [10, 200, 30]]
    rgb = Image.new("RGB", (2, 1), (1, 2, 3))
    rgb.putpixel((1, 0), (4, 5, 6))
    assert decode_image(encoded(rgb, transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_cmyk_is_converted():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red ink
    for format in ("JPEG", "TIFF"):
        red, green, blue = decode_image(encoded(image, format))[4, 4]
        assert red > 240
        assert max(green, blue) < 15


def test_sixteen_bits_are_scaled_and_never_clipped():
    values = np.array([[0, 300, 32768, 65535]], dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        assert decode_image(encoded(Image.fromarray(values), format))[0, :, 0].tolist() == [0, 1, 128, 255]
    wide = Image.fromarray(values.astype(np.int32))
    assert wide.mode == "I"
    assert decode_image(encoded(wide, "TIFF"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floats_and_wide_integers_outside_of_the_documented_range_are_bad():
    inside = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert decode_image(encoded(inside, "TIFF"))[0, :, 1].tolist() == [0, 128, 255]
    for values in (np.float32([[0, 2]]), np.float32([[0, np.nan]]), np.int32([[-1, 5]]), np.int32([[0, 70000]])):
        with pytest.raises(BadSample, match="expected"):
            decode_image(encoded(Image.fromarray(values), "TIFF"))


def test_big_endian_sixteen_bits():
    image = Image.frombytes("I;16B", (3, 1), np.array([[0, 300, 65535]], dtype=">u2").tobytes())
    assert decode_image(encoded(image, "TIFF"))[0, :, 0].tolist() == [0, 1, 255]


def test_jpegs_of_cameras_with_several_pictures():
    first, second = (Image.new("RGB", (16, 16), c) for c in ("red", "blue"))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert data[:2] == b"\xff\xd8"  # to everybody else, a JPEG
    assert decode_image(data)[0, 0, 0] > 240


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(format):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert decode_image(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>not found</html>", "not an image of a known format"),
        (encoded(Image.fromarray(photo()), "JPEG")[:400], "truncated"),
        (encoded(Image.fromarray(photo()), "PNG")[:1000], "truncated"),
        (encoded(Image.fromarray(photo()), "PNG").replace(b"IDAT", b"JDAT"), "."),
        (png_header(30_000, 30_000), "bomb"),
        (png_header(12_000, 12_000), "144,000,000|12000 x 12000"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    ],
    ids=["empty", "html", "jpeg-cut", "png-cut", "png-bits", "bomb", "large", "eps"],
)
def test_what_cannot_be_read_is_a_bad_sample(tmp_path, content, reason):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(BadSample, match=reason) as caught:
        decode_image(path)
    assert str(tmp_path) not in caught.value.reason
    assert "\n" not in caught.value.reason


def test_large_photographs_pass_the_cap_without_a_warning(recwarn):
    with pytest.raises(BadSample, match="truncated"):  # the pixels are looked for, it is no bomb yet
        decode_image(png_header(10_000, 9_100))  # beyond Pillow's own warning
    assert not [w for w in recwarn if "Decompression" in str(w.category)]


def test_missing_files_folders_and_pipes_do_not_hang(tmp_path):
    with pytest.raises(BadSample, match="No such file"):
        decode_image(tmp_path / "none.png")
    with pytest.raises(BadSample, match="regular"):
        decode_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadSample, match="regular"):
        decode_image(tmp_path / "pipe.png")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]), st.integers(0, 2000))
def test_damaged_files_give_pixels_or_a_reason(junk, format, at):
    data = encoded(Image.fromarray(photo()), format)
    at %= len(data)
    try:
        pixels = decode_image(data[:at] + junk + data[at + len(junk) :])
    except BadSample:
        return
    else:
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3


def test_arrays_and_tensors():
    torch = pytest.importorskip("torch")
    pixels = photo()
    assert np.array_equal(decode_image(pixels), pixels)
    assert np.array_equal(decode_image(Image.fromarray(pixels)), pixels)
    assert np.array_equal(decode_image(torch.from_numpy(pixels).permute(2, 0, 1)), pixels)
    assert np.array_equal(decode_image(torch.from_numpy(pixels).permute(2, 0, 1) / 255), pixels)
    assert decode_image(pixels[:, :, 0]).shape == (40, 60, 3)
    with pytest.raises(BadSample, match="0 to 1"):
        decode_image(torch.randn(3, 8, 8))
    for wrong in ("x", {}, np.zeros((2, 2, 2, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(BadSample):
            decode_image(wrong)
