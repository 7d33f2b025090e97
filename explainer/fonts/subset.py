"""Makes Castwatch Sans of Pretendard 1.3.9: the subset that charts and the console need.

    python3 -m venv venv && venv/bin/pip install 'fonttools[woff]==4.60.1' brotli==1.2.1
    npm pack pretendard@1.3.9
    venv/bin/python subset.py pretendard-1.3.9.tgz

The same input makes the same bytes.
"""

import hashlib
import io
import pathlib
import sys
import tarfile

from fontTools import subset
from fontTools.ttLib import TTFont

SHA512 = (
    "3da400003c8b639bf89181709294891db492608922ae263fd715f0ef94caa19f"
    "54410a9e53eb6f3f4e724dd6405a26e2218a28f192ad46ff0f33bc3421acb04b"
)
FAMILY = "Castwatch Sans"
HERE = pathlib.Path(__file__).resolve().parent
STATIC = "package/dist/public/static"
WEIGHTS = {"Regular": "Regular", "Bold": "Bold"}


def characters() -> set[int]:
    """Latin, Greek letters and signs of measuring, and the 2,350 syllables of KS X 1001."""
    wanted = set(range(0x20, 0x7F)) | set(range(0xA0, 0x100))
    wanted |= {ord(c) for c in "–—‘’“”†‡•…‰′″←↑→↓↔−×÷±≈≠≤≥∞√°℃℉ΔΣΩαβγδλμσ²³·■□▲△▶▷▼▽◀◁◆◇○●㎜㎝㎞㎏㎡㎥㎧、。「」"}
    wanted |= set(range(0x3131, 0x3164))
    for lead in range(0xB0, 0xC9):
        for trail in range(0xA1, 0xFF):
            wanted.add(ord(bytes([lead, trail]).decode("euc_kr")))
    return wanted


def rename(font: TTFont, style: str) -> None:
    """Takes the Reserved Font Name out of everything but the copyright and the licence."""
    name = font["name"]
    postscript = FAMILY.replace(" ", "") + "-" + style
    said = {1: FAMILY, 2: style, 3: postscript, 4: f"{FAMILY} {style}", 6: postscript}
    name.names = [n for n in name.names if n.nameID in (0, 5, 13, 14) and n.platformID == 3 and n.langID == 0x409]
    for name_id, text in said.items():
        name.setName(text, name_id, 3, 1, 0x409)
    if "CFF " in font:
        cff = font["CFF "].cff
        cff.fontNames = [postscript]
        top = cff.topDictIndex[0]
        for field, text in (("FullName", said[4]), ("FamilyName", FAMILY)):
            if hasattr(top, field):
                setattr(top, field, text)
        for part in getattr(top, "FDArray", []):
            part.FontName = postscript


def cut(data: bytes, style: str, path: pathlib.Path, flavor: str | None, features: list[str]) -> None:
    options = subset.Options()
    options.layout_features = features
    options.hinting = False
    options.flavor = flavor
    options.name_IDs = ["*"]
    options.name_languages = ["*"]
    options.notdef_outline = True
    options.drop_tables += ["DSIG", "meta"]
    font = TTFont(io.BytesIO(data), recalcTimestamp=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=characters())
    subsetter.subset(font)
    rename(font, style)
    font.flavor = flavor
    font.save(path)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(font.getBestCmap())} characters")


def main(package: str) -> None:
    packed = pathlib.Path(package).read_bytes()
    if hashlib.sha512(packed).hexdigest() != SHA512:
        sys.exit(f"{package} is not pretendard 1.3.9")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for weight, style in WEIGHTS.items():
            data = tar.extractfile(f"{STATIC}/Pretendard-{weight}.otf").read()
            cut(data, style, HERE / f"castwatch-sans-{style.lower()}.otf", None, [])
            if style == "Regular":
                cut(data, style, HERE / "castwatch-sans.woff2", "woff2", ["kern", "tnum", "calt"])
        (HERE / "OFL.txt").write_bytes(tar.extractfile("package/dist/LICENSE.txt").read())


if __name__ == "__main__":
    main(sys.argv[1])
