"""The words of a text that comes unsplit, and where they stand."""

import re
import unicodedata
from collections.abc import Sequence

# Over a text's characters, one sign each (`_sign`): letters and digits with what joins them, or one other character.
_WORD = re.compile(r"[ld]+(?:(?:j|(?<=d)c(?=d))[ld]+)*|[jcp]")
_JOINERS = "-'’.\u200c\u200d"


def split_words(text: str) -> list[tuple[int, int]]:
    """The places of the words: text[start:end]. Punctuation stands alone, save within a word: `don't`, `1,000`."""
    return [match.span() for match in _WORD.finditer("".join(map(_sign, text)))]


def split_at_spaces(text: str) -> list[tuple[int, int]]:
    """The places of what stands between spaces, in a text whose words are told apart already."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def joined_places(words: Sequence[str]) -> list[tuple[int, int]]:
    """Where words stand in a text that joins them by spaces."""
    places, start = [], 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return places


def _sign(character: str) -> str:
    if character in _JOINERS:
        return "j"
    if character == ",":
        return "c"
    category = unicodedata.category(character)
    # A mark belongs to the letter it stands on; without it, no word of Hindi or Thai would be whole.
    if category[0] in "LM" or character == "_":
        return "l"
    return "d" if category[0] == "N" else "s" if category[0] in "ZC" else "p"
