"""The icons that the style sheet shows, as fonts inside it: a few glyphs of the theme's fonts.

The theme draws its icons with Font Awesome Free, by a script of 1.5 MB and fonts of 260 KB, of
which a page shows some twenty. The fonts lie in the theme's package; each glyph that a rule still
names is taken from there when the site is built.
"""

import base64
import io
import logging
from pathlib import Path

import tinycss2
from fontTools import subset
from fontTools.ttLib import TTFont
from stylesheets import Rule, every

logging.getLogger("fontTools").setLevel(logging.WARNING)  # which else tells each step

# Font Awesome's license asks for this line wherever the icons go.
CREDIT = "/*! Icons: Font Awesome Free, fontawesome.com, CC BY 4.0; font: SIL OFL 1.1 */"
FACES = {
    "Font Awesome 6 Free": ("fa-solid-900.ttf", "900"),
    "Font Awesome 6 Brands": ("fa-brands-400.ttf", "400"),
}


def shown(rules: list[Rule]) -> set[int]:
    """The characters that the rules put before and after elements, as code points."""
    found = set()
    for rule in every(rules):
        for name, value in rule.declarations:
            if name == "content" or name.startswith("--"):
                tokens = tinycss2.parse_component_value_list(value)
                found.update(ord(c) for t in tokens if t.type == "string" for c in t.value)
    return {code for code in found if code > 0x7F}


def is_theme_font(rule: Rule) -> bool:
    """Whether a rule brings a whole font of icons."""
    return rule.head.startswith("@font-face") and any(
        "fontawesome" in value for name, value in rule.declarations if name == "src"
    )


def icon_fonts(fonts: Path, codes: set[int]) -> str:
    """`@font-face` rules with the glyphs for the characters, from the fonts in a folder."""
    rules = [CREDIT]
    for family, (file, weight) in FACES.items():
        if data := few_glyphs(fonts / file, codes):
            address = f"data:font/woff;base64,{base64.b64encode(data).decode()}"
            rules.append(
                f'@font-face{{font-family:"{family}";font-weight:{weight};font-style:normal;'
                f'src:url({address}) format("woff")}}'
            )
    return "".join(rules) if len(rules) > 1 else ""


def give_widths(rules: list[Rule], fonts: Path):
    """Let an icon have its width before its font is decoded, so that nothing moves then."""
    wide = {}
    for file, _ in FACES.values():
        with TTFont(fonts / file, lazy=True) as face:
            em, metrics = face["head"].unitsPerEm, face["hmtx"]
            wide |= {code: metrics[name][0] / em for code, name in face.getBestCmap().items()}
    for rule in every(rules):
        text = dict(rule.declarations).get("content", "").strip("\"'")
        if ":before" in rule.head and ".fa-" in rule.head and len(text) == 1:
            size = f"{wide[ord(text)]:.4g}em"
            rule.declarations += [("display", "inline-block"), ("width", size)]


def few_glyphs(font: Path, codes: set[int]) -> bytes:
    """A WOFF font with the glyphs for some characters; nothing if the font has none of them."""
    options = subset.Options(
        flavor="woff", hinting=False, layout_features=[], name_IDs=[], notdef_outline=False
    )
    options.drop_tables += ["GSUB", "GPOS", "GDEF"]
    with subset.load_font(str(font), options) as face:
        if not codes & set(face.getBestCmap()):
            return b""
        face.recalcTimestamp = False  # the same glyphs are the same bytes on every day
        cut = subset.Subsetter(options)
        cut.populate(unicodes=codes)
        cut.subset(face)
        out = io.BytesIO()
        subset.save_font(face, out, options)
    return out.getvalue()
