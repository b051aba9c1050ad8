"""Makes formats/ (see README.md). Needs Pillow, NumPy, and tiffcp of libtiff; run it here.

Each folder has files of one picture, and Pillow's pixels of all of them."""

import io
import struct
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

rng = np.random.default_rng(7)
folder = Path("formats")
WIDTH, HEIGHT = 21, 13


def picture():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / 5 + y / 9), np.cos(x / 7 - y / 4), np.sin((x * y) / 60)]
    values = 127 + 120 * np.stack(waves, 2) + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiffcp(tiff, *options):
    given, made = Path("given.tif"), Path("made.tif")
    given.write_bytes(tiff)
    subprocess.run(["tiffcp", *options, given, made], check=True)
    result = made.read_bytes()
    given.unlink()
    made.unlink()
    return result


def tiff(samples, bits, photometric, *tags):
    """An uncompressed TIFF: what Pillow can't write."""
    count = samples.size // (WIDTH * HEIGHT)
    data = samples.tobytes()
    data += b"\0" * (len(data) % 2)
    all_bits = struct.pack(f"<{count}H", *[bits] * count)
    place = 8 + len(data)
    where = place if count > 2 else int.from_bytes(all_bits, "little")
    entries = [
        (256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, count, where), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, 1, 8), (277, 3, 1, count), (278, 4, 1, HEIGHT), (279, 4, 1, samples.nbytes), *tags,
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<I", place + len(all_bits)) + data + all_bits + directory + bytes(4)


def pnm(kind, most, values, text=False):
    header = f"{kind}\n# of a scanner\n{WIDTH} {HEIGHT}\n{most}\n".encode()
    if text:
        return header + " ".join(str(value) for value in values.ravel()).encode() + b"\n"
    return header + values.astype(">u2" if most > 255 else "u1").tobytes()


def write(name, files):
    """The files of a folder, and their pixels, which must be the same."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    pixels = None
    for kind, content in files.items():
        path = folder / name / kind
        path.write_bytes(content)
        image = Image.open(path).convert("RGB")
        assert pixels is None or image.tobytes() == pixels, path
        pixels = image.tobytes()
    image.save(folder / name / "pillow.png", optimize=True)


image = picture()
values = np.asarray(image)
plain = saved(image, "TIFF")
write(
    "rgb",
    {
        "plain.tif": plain,
        "lzw.tif": tiffcp(plain, "-c", "lzw:2"),
        "deflate.tif": tiffcp(plain, "-c", "zip:2"),
        "packbits.tif": tiffcp(plain, "-c", "packbits"),
        "strips.tif": tiffcp(plain, "-r", "5"),
        "tiles.tif": tiffcp(plain, "-t", "-w", "16", "-l", "16"),
        "planes.tif": tiffcp(plain, "-p", "separate"),
        "big-endian.tif": tiffcp(plain, "-B"),
        "bigtiff.tif": saved(image, "TIFF", big_tiff=True),
        "pages.tif": saved(image, "TIFF", save_all=True, append_images=[picture()]),
        "16-bits.tif": tiff(values.astype("<u2") * 256 + 200, 16, 2),
        "p3.ppm": pnm("P3", 255, values, text=True),
        "p6.ppm": pnm("P6", 255, values),
        "p6-16-bits.ppm": pnm("P6", 65535, values.astype(int) * 257),
        "lossless.webp": saved(image, "WEBP", lossless=True),
        "animated.webp": saved(image, "WEBP", lossless=True, save_all=True, append_images=[picture()]),
        "animated.png": saved(image, "PNG", save_all=True, append_images=[picture()]),
        "plain.bmp": saved(image, "BMP"),
    },
)

alpha = image.convert("RGBA")
alpha.putalpha(image.convert("L"))
write(
    "alpha",
    {
        "plain.tif": saved(alpha, "TIFF"),
        "planes.tif": tiffcp(saved(alpha, "TIFF"), "-p", "separate"),
        "lossless.webp": saved(alpha, "WEBP", lossless=True, exact=True),
        "plain.png": saved(alpha, "PNG"),
    },
)

grey = image.convert("L")
write(
    "grey",
    {
        "plain.tif": saved(grey, "TIFF"),
        "white-is-zero.tif": tiff(255 - np.asarray(grey), 8, 0),
        "tiles.tif": tiffcp(saved(grey, "TIFF"), "-t", "-w", "16", "-l", "16"),
        "p2.pgm": pnm("P2", 255, np.asarray(grey), text=True),
        "p5.pgm": pnm("P5", 255, np.asarray(grey)),
        "plain.gif": saved(grey, "GIF"),
    },
)

bilevel = image.convert("1")
write(
    "bilevel",
    {
        "plain.tif": saved(bilevel, "TIFF"),
        "group4.tif": saved(bilevel, "TIFF", compression="group4"),
        "p4.pbm": saved(bilevel, "PPM"),
        "plain.gif": saved(bilevel, "GIF"),
        "plain.png": saved(bilevel, "PNG"),
    },
)

inks = image.convert("CMYK")
write(
    "inks",
    {
        "plain.tif": saved(inks, "TIFF"),
        "lzw.tif": tiffcp(saved(inks, "TIFF"), "-c", "lzw"),
        "16-bits.tif": tiff(np.asarray(inks).astype("<u2") * 257, 16, 5),
    },
)

# One upright picture, stored in all ways that EXIF knows. Pillow turns a TIFF when it opens it, others where it is asked to.
UPRIGHT = [
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_270,
]
(folder / "orientation").mkdir(exist_ok=True)
for number, stored in enumerate(UPRIGHT, 1):
    lying = image if stored is None else image.transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = number
    for kind, options in {"png": {}, "webp": {"lossless": True}, "tif": {"compression": "tiff_lzw"}}.items():
        path = folder / "orientation" / f"{number}.{kind}"
        lying.save(path, exif=exif, **options)
        found = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        assert found.tobytes() == image.tobytes(), path
image.save(folder / "orientation" / "pillow.png")

palette = image.quantize(50)
gif = saved(palette, "GIF", interlace=0)
write(
    "palette",
    {
        "plain.gif": gif,
        "interlaced.gif": saved(palette, "GIF", interlace=1),
        "animated.gif": saved(palette, "GIF", save_all=True, append_images=[picture().quantize(20)]),
        "transparent.gif": saved(palette, "GIF", transparency=7),
        "screen-of-no-size.gif": gif[:6] + bytes(4) + gif[10:],
        "small-screen.gif": gif[:6] + struct.pack("<HH", 9, 9) + gif[10:],
        "plain.png": saved(palette, "PNG"),
        "plain.bmp": saved(palette, "BMP"),
    },
)
larger = gif[:6] + struct.pack("<HH", 30, 20) + gif[10:]
frame = larger.index(b"\x2c\0\0\0\0") + 1
write("frame-in-screen", {"plain.gif": larger[:frame] + struct.pack("<HH", 4, 3) + larger[frame + 4 :]})
transparent = saved(palette, "GIF", transparency=7)
write("frame-in-transparent-screen", {"plain.gif": transparent[:6] + struct.pack("<HH", 30, 20) + transparent[10:]})
few = (np.asarray(grey).astype(int) * 15 + 127) // 255
write("few-values", {"p2.pgm": pnm("P2", 15, few, text=True), "p5.pgm": pnm("P5", 15, few)})

# What is refused. Pillow reads them.
(folder / "refused").mkdir(exist_ok=True)
for kind, content in {
    "bits-in-reverse.tif": tiffcp(plain, "-f", "lsb2msb"),
    "colours-times-alpha.tif": tiff(np.asarray(alpha), 8, 2, (338, 3, 1, 1)),
    "jpeg.tif": saved(image, "TIFF", compression="jpeg"),
    "palette.tif": saved(palette, "TIFF"),
    "planes-in-tiles.tif": tiffcp(plain, "-p", "separate", "-t", "-w", "16", "-l", "16"),
    "32-bits.tif": tiff(values.astype("<u4") * 16843009, 32, 2),
}.items():
    (folder / "refused" / kind).write_bytes(content)
