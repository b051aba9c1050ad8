"""Makes jpeg/ (see README.md). Needs Pillow, NumPy, and cjpeg and jpegtran of libjpeg-turbo; run it here.

Each folder has files that hold the same coefficients in other ways, and Pillow's pixels of all of them."""

import io
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

rng = np.random.default_rng(7)
folder = Path("jpeg")
# Sampling of Y (Cb and Cr have 1x1 unless said otherwise), and a size that fills no unit of it.
SAMPLINGS = {
    "444": ("1x1", 43, 29),
    "422": ("2x1", 41, 27),
    "440": ("1x2", 43, 37),
    "420": ("2x2", 41, 37),
    "411": ("4x1", 51, 22),
    "410": ("4x2", 49, 39),
    "uneven": ("2x2,2x1,1x2", 43, 23),
}
ONE_EACH = "0;\n1;\n2;\n"
SCANS = {"one-each": ONE_EACH, "cb-first": "1;\n0;\n2;\n", "cr-first": "2;\n1;\n0;\n", "y-then-rest": "0;\n1,2;\n"}
PROGRESSIVE_APART = "0:0-0,0,0;\n2:0-0,0,0;\n1:0-0,0,0;\n1:1-63,0,0;\n0:1-63,0,0;\n2:1-63,0,0;\n"


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 5 + y / 9), np.cos(x / 7 - y / 4), np.sin((x * y) / 60)]
    values = 127 + 120 * np.stack(waves, 2) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def run(*command, data):
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def cjpeg(image, *options):
    ppm = io.BytesIO()
    image.save(ppm, "PPM")
    return run("cjpeg", "-quality", "80", *options, data=ppm.getvalue())


def jpegtran(jpeg, *options, scans=None):
    if scans:
        Path("scans.txt").write_text(scans)
        options = ("-scans", "scans.txt", *options)
    result = run("jpegtran", *options, data=jpeg)
    Path("scans.txt").unlink(missing_ok=True)
    return result


def before_marker(jpeg, marker, stray, after=0):
    place = jpeg.index(bytes([0xFF, marker]), after)
    return jpeg[:place] + stray + jpeg[place:]


def second_scan(jpeg):
    return jpeg.index(b"\xff\xda") + 2


def write(name, files):
    """The files of a folder, and their pixels, which must be the same."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    pixels = None
    for kind, jpeg in files.items():
        path = folder / name / f"{kind}.jpg"
        path.write_bytes(jpeg)
        image = Image.open(path).convert("RGB")
        assert pixels is None or image.tobytes() == pixels, path
        pixels = image.tobytes()
        image.save(folder / name / "pillow.png", optimize=True)


for name, (sampling, width, height) in SAMPLINGS.items():
    base = cjpeg(picture(width, height), "-sample", sampling)
    one_each = jpegtran(base, scans=ONE_EACH)
    files = {
        "baseline": base,
        "progressive": jpegtran(base, "-progressive"),
        "progressive-apart": jpegtran(base, scans=PROGRESSIVE_APART),
        "restarts": jpegtran(base, "-restart", "3B"),
        "one-each-restarts": jpegtran(base, "-restart", "3B", scans=ONE_EACH),
        "one-each-restart-rows": jpegtran(base, "-restart", "1", scans=ONE_EACH),
        "progressive-restarts": jpegtran(base, "-progressive", "-restart", "3B"),
        "stray-bytes": before_marker(before_marker(base, 0xC4, b"stray"), 0xDA, b"\r\n\0"),
        "one-each-stray-bytes": before_marker(one_each, 0xDA, b"\0\x7f", second_scan(one_each)),
        "fill-bytes": before_marker(base, 0xC4, b"\xff\xff"),
    }
    for kind, scans in SCANS.items():
        files[kind] = jpegtran(base, scans=scans)
    write(name, files)

image = picture(43, 29)
grey = cjpeg(image, "-grayscale")
units = bytearray(grey)
units[grey.index(b"\xff\xc0") + 11] = 0x22
write(
    "grey",
    {
        "baseline": grey,
        "progressive": jpegtran(grey, "-progressive"),
        "restarts": jpegtran(grey, "-restart", "3B"),
        "units-of-four": bytes(units),
    },
)

rgb = cjpeg(image, "-rgb")
adobe = rgb.index(b"Adobe") - 4
write(
    "rgb",
    {
        "adobe": rgb,
        "by-ids": rgb[:adobe] + rgb[adobe + 16 :],
        "progressive": jpegtran(rgb, "-progressive"),
        "one-each": jpegtran(rgb, scans=ONE_EACH),
    },
)


def with_adobe(jpeg, transform):
    return jpeg[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([transform]) + jpeg[2:]


def with_ids(jpeg, ids):
    jpeg = bytearray(jpeg)
    frame, scan = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xda")
    for place, component in enumerate(ids):
        jpeg[frame + 10 + 3 * place] = jpeg[scan + 5 + 2 * place] = component
    return bytes(jpeg)


# Which colours the components stand for, as libjpeg tells it.
base = cjpeg(image, "-sample", "1x1")
jfif = base.index(b"JFIF") - 4
bare = base[:jfif] + base[jfif + 18 :]
write(
    "ycc",
    {
        "bare": bare,
        "adobe": with_adobe(bare, 1),
        "adobe-unknown": with_adobe(bare, 2),
        "jfif-and-adobe-rgb": with_adobe(base, 0),
        "jfif-and-ids-rgb": with_ids(base, b"RGB"),
        "ids-from-zero": with_ids(bare, [0, 1, 2]),
        "ids-small-rgb": with_ids(bare, b"rgb"),
    },
)
write("ycc-called-rgb", {"adobe": with_adobe(bare, 0)})

for name, subsampling in (("444", 0), ("420", 2)):
    file = io.BytesIO()
    image.convert("CMYK").save(file, "JPEG", quality=80, subsampling=subsampling)
    cmyk = file.getvalue()
    place = cmyk.index(b"Adobe")

    def transformed(transform):
        return cmyk[: place + 11] + bytes([transform]) + cmyk[place + 12 :]

    write(
        f"cmyk-{name}",
        {
            "adobe": cmyk,
            "bare": cmyk[: place - 4] + cmyk[place + 12 :],
            "progressive": jpegtran(cmyk, "-progressive"),
        },
    )
    write(
        f"ycck-{name}",
        {
            "adobe": transformed(2),
            "adobe-unknown": transformed(1),
            "one-each": jpegtran(transformed(2), scans=ONE_EACH + "3;\n"),
        },
    )

# What is refused. Pillow reads all but the last.
(folder / "refused").mkdir(exist_ok=True)
between = cjpeg(picture(33, 25), "-sample", "4x1,2x1,1x1")
base = cjpeg(image, "-sample", "2x2")
one_each = jpegtran(base, scans=ONE_EACH)
restarts = jpegtran(base, "-restart", "3B")
for kind, jpeg in {
    "sampling-between": jpegtran(between, scans=ONE_EACH),
    "arithmetic": jpegtran(base, "-arithmetic"),
    "scan-missing": one_each[: one_each.rindex(b"\xff\xda")] + b"\xff\xd9",
    "restart-missing": restarts.replace(b"\xff\xd0", b"", 1),
    "two-components": base[: base.index(b"\xff\xc0") + 9] + b"\2" + base[base.index(b"\xff\xc0") + 10 :],
}.items():
    (folder / "refused" / f"{kind}.jpg").write_bytes(jpeg)
