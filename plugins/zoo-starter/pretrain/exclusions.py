"""Signs that are digits, or that look like one, and are therefore never drawn.

The starter networks are judged on handwritten digits, so pretraining must not have seen one in disguise. Four rules
decide, each on its own: Unicode says the sign has a numeric value; its name says so; the list below names it; its
drawing looks like a digit's (``glyphs.looks_like_a_digit``).
"""

from __future__ import annotations

import unicodedata

#: Digit -> signs that a reader may take for it, upright or as written by hand, and the reason.
DIGIT_LIKE: dict[str, tuple[str, str]] = {
    "0": (
        "OoΟοОоՕօסهഠ௦○◯●◌◎◉⊙⊚⊖⊗⊘⊕⊛⊜⊝∘°∅⌀⦵QΘθϴѲѳӨөƟɵØøÇԚԾDⵔⵙⵀⵁⵚⵟⵞⴱⴲ۞∙%٪◍◐◑◒◓◔◕◴◵◶◷⌽⌾⍉⍜⍥❍↺↻⟲⟳юЮ☯☮⌕ةםѸѹꙊꙋꙫꙬꙭꙮÐĐđƉɊɋოႭᴏᴑᴓ☉☺☻☹♁⚪⚫⚬ΦφфɸѺѻ@©®℗⏀⏁ⓞꝊꝋꙨꙩߋ߀",
        "a closed ring, with or without a mark in it",
    ),
    "1": (
        "lIi|ı!¡jɩιΙІіӀӏӏւլԼוןןاأإآ۱ⵏⵑǀǁǂ∣∥ǃ⎮│┃▏▎▍▌¦ɪƖⅼ⏐❘❙❚ᛁ↑↓⇑⇓↿⇂⇃↾1ߊŁłɫɭʅꓲⵊ†‡‖ȷɾɿ⏨♳יƗɨƚⱠⱡ",
        "an upright bar, with or without a foot or a flag",
    ),
    "2": (
        "ZzΖƧƨƵƶȤȥʐʑẔẕϨϩշՇՋջՉչԶզՁձʔʕɁɂʡʢ?¿ꝛʑƻᴢⵒ☡ʠɀⱿʖʗɚᙆʣʤʥζξΞꙄꙅⱫⱬʦʨʪʫՂղ",
        "a diagonal between two strokes, or a hook over a foot",
    ),
    "3": (
        "ЗзЭэƷʒʓƸƹƺǮǯȜȝӠӡӞӟʚɞɜɝєЄԐԑεƐɛℇΣϽϿͻͽꝪꝫვჳკჲეპჰႣჷՅՅзԞԟʢᴈᴟӬӭ∋∍∃⋺∑ƎꓱҘҙϠϡعغѬѮѯҘჩჱჸჯუშ∛ԄԅԆԇ",
        "two open bows one above the other, also mirrored",
    ),
    "4": (
        "ЧчҶҷӋӌҸҹӴӵՎվԿկԱաЏyYУуγʏɥhuµμцЦᔦᏎφ⼁⚳♃Ϥϥ☇↯ϟ⚡ҁϞʎɣ♄ɰЩщყ∜",
        "an open or closed top with a long right-hand stem, also a lightning stroke",
    ),
    "5": ("SsЅѕՏƼƽ$§ʂȘșϚБƂƃſŞşꜱ∫ʃƪ∽⌠⌡ꞨϛƾⱾƋƌᔆ", "an S-shaped double bow, or a bar over a bow"),
    "6": (
        "bЬьЪъЂђЋћҌҍƄƅɓҔҕбϬϭδ∂σςƀᑲᑳႦნბճծԃԁɕϐСՇϬҨҩѢѣЫыGɢⴃƍ☌טƏǝəꙐꙑꙒꙓსწðљњЉЊꚊЂђ",
        "a bow closed at its foot under a stem",
    ),
    "7": ("ר ך ד ΓГ¬⌐┐╗¯7フ⅂ךדרתሃᒣᒥ┓ŢƬ⏋⎤⌉⌝זךˁדּרּךּ".replace(" ", ""), "a bar with a stem from its right end"),
    "8": ("B&ΒВвȢȣβßẞ∞8ვმგჺႹჵ჻ზ♾ƁɃھც♋ȸȹʚѣɮꝎꝏƔɤ႘ⴆ8҂⚭☿ℬՑꚘʙ⚮⧖⧗ჴტძჟჶჹჭხჵ♉⚆⚇⚈⚉ֆՖ", "two closed bows"),
    "9": ("qgɡɋʠɠԛցգףקۼǤǥց੧ᑫᑬPpρРрƤƿϷϸϱⴓÞþҎҏდႳძҩ9۹ʛაօϙϘϕԚوؤۇۈۋۏԃ¶Գم❡Ρρ", "a bow closed at its top over a stem"),
}

#: Words in a Unicode name that tell of a number even where no numeric value is recorded.
NUMBER_WORDS = ("DIGIT", "NUMBER", "NUMERAL", "FRACTION", "TONE ", "HUNDRED", "THOUSAND", "CIRCLED", "DIE FACE")

_LISTED = frozenset("".join(signs for signs, _ in DIGIT_LIKE.values()))


def has_numeric_value(sign: str) -> bool:
    """True where Unicode records a value or a number category (Nd, Nl, No) for ``sign``."""
    return unicodedata.numeric(sign, None) is not None or unicodedata.category(sign).startswith("N")


def is_excluded(sign: str) -> bool:
    """True where ``sign``, or any part it decomposes into, is a digit by value, by name or by the list above."""
    name = unicodedata.name(sign, "")
    if any(word in name for word in NUMBER_WORDS):
        return True
    parts = {sign, *unicodedata.normalize("NFKD", sign)}
    return any(part in _LISTED or has_numeric_value(part) or part.isdigit() for part in parts)
