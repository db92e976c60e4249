"""IFEval's checkable instructions (Zhou et al. 2023, arXiv:2311.07911) as a reward.

Rows have the columns of the data set google/IFEval: "instruction_id_list", a list of names such as
"length_constraints:number_words", and "kwargs", a list with the options of each. All 25 instructions are known. Where
the paper's program counts sentences with a trained splitter, here a sentence ends at ``.``, ``!`` or ``?`` before white
space or the end; the language is guessed by langdetect, as there (without that package the instruction is an error).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tea.rewards.base import Text, completion_texts

_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


class IFEvalReward:
    """1.0 where the completion follows all of the row's instructions, else 0.0.

    Args:
        share: give the share of the instructions that are followed instead.
        loose: a completion also counts without its first line, its last line, or the asterisks of its markup, as
            IFEval's loose accuracy does.

    Raises:
        ValueError: rows without the columns of IFEval, or with an instruction that is not known.
    """

    def __init__(self, *, share: bool = False, loose: bool = False) -> None:
        self.share = share
        self.loose = loose
        self.source = "ifeval" + (":share" if share else "") + (":loose" if loose else "")
        self.fingerprint = self.source
        self.__name__ = "ifeval"

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        instruction_id_list: Sequence[Sequence[str]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`."""
        options = columns.get("kwargs")
        if instruction_id_list is None or options is None:
            raise ValueError(
                f"reward 'ifeval' needs the columns 'instruction_id_list' and 'kwargs' of IFEval; there are: "
                f"{sorted(columns)}"
            )
        scores: list[float | None] = []
        for text, names, given in zip(completion_texts(completions), instruction_id_list, options, strict=True):
            rows = json.loads(given) if isinstance(given, str) else given
            if len(names) != len(rows):
                raise ValueError(f"a row has {len(names)} instructions and kwargs for {len(rows)}")
            followed = [self._follows(text, name, row or {}) for name, row in zip(names, rows, strict=True)]
            if not followed:
                scores.append(None)
            else:
                scores.append(sum(followed) / len(followed) if self.share else float(all(followed)))
        return scores

    def _follows(self, text: str, name: str, options: Mapping[str, Any]) -> bool:
        variants = [text]
        if self.loose:
            lines = text.split("\n")
            cuts = [lines, lines[1:], lines[:-1], lines[1:-1]]
            variants = [version for cut in cuts for version in ("\n".join(cut), "\n".join(cut).replace("*", ""))]
        return any(follows_instruction(variant, name, options) for variant in variants)


def follows_instruction(text: str, name: str, options: Mapping[str, Any]) -> bool:
    """Whether `text` follows one instruction of IFEval. An empty text follows none.

    Raises:
        ValueError: the instruction is not known, or lacks an option.
    """
    if name not in _CHECKS:
        raise ValueError(f"IFEval has no instruction {name!r}; it has: {', '.join(sorted(_CHECKS))}")
    if not text.strip():
        return False
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return bool(_CHECKS[name](text, given))
    except KeyError as error:
        raise ValueError(f"instruction {name!r} lacks its option {error}; given: {given}") from None


def _compare(count: int, relation: str, bound: float) -> bool:
    if relation == "less than":
        return count < bound
    if relation == "at least":
        return count >= bound
    raise ValueError(f"a relation must be 'less than' or 'at least', got {relation!r}")


def _words(text: str) -> int:
    return len(re.findall(r"\w+", text))


def _paragraphs(text: str, options: Mapping[str, Any]) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = parts[1:-1]
    filled = [part for part in parts if part.strip()]
    return all(part.strip() for part in inner) and len(filled) == options["num_paragraphs"]


def _nth_paragraph(text: str, options: Mapping[str, Any]) -> bool:
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    nth = options["nth_paragraph"]
    if count != options["num_paragraphs"] or nth > count or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == options["first_word"].lower()


def _postscript(text: str, options: Mapping[str, Any]) -> bool:
    marker = options["postscript_marker"].strip()
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, re.escape(marker.lower()))
    return re.search(pattern, text.lower()) is not None


def _bullets(text: str, options: Mapping[str, Any]) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == options["num_bullets"]


def _highlights(text: str, options: Mapping[str, Any]) -> bool:
    single = [part for part in re.findall(r"\*[^\n\*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n\*]*\*\*", text) if part[2:-2].strip()]
    return len(single) + len(double) >= options["num_highlights"]


def _sections(text: str, options: Mapping[str, Any]) -> bool:
    marker = re.escape(options["section_spliter"].strip())
    return len(re.findall(rf"\s?{marker}\s?\d+\s?", text)) >= options["num_sections"]


def _json(text: str, options: Mapping[str, Any]) -> bool:
    inner = re.sub(r"\A```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```")
    try:
        json.loads(inner.strip())
    except ValueError:
        return False
    return True


def _two_responses(text: str, options: Mapping[str, Any]) -> bool:
    parts = text.split("******")
    filled = [part.strip() for part in parts if part.strip()]
    return all(part.strip() for part in parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def _end(text: str, options: Mapping[str, Any]) -> bool:
    return text.strip().strip('"').lower().endswith(options["end_phrase"].strip().lower())


def _quoted(text: str, options: Mapping[str, Any]) -> bool:
    inner = text.strip()
    return len(inner) > 1 and inner[0] == inner[-1] == '"'


def _capital_words(text: str, options: Mapping[str, Any]) -> bool:
    words = re.findall(r"\w+(?:[-'’]\w+)*", text)
    count = sum(word.isupper() for word in words)
    return _compare(count, options["capital_relation"], options["capital_frequency"])


def _language(text: str, code: str) -> bool:
    try:
        import langdetect
    except ImportError as error:
        raise ImportError(
            f"this instruction of IFEval needs langdetect: pip install 'tea-rl[verify]' ({error})"
        ) from None
    langdetect.DetectorFactory.seed = 0
    try:
        return bool(langdetect.detect(text) == code)
    except langdetect.LangDetectException:  # nothing to go by: IFEval lets it pass
        return True


def _case(text: str, right: bool) -> bool:
    return right and _language(text, "en")


_CHECKS: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "keywords:existence": lambda text, o: all(re.search(word, text, re.IGNORECASE) for word in o["keywords"]),
    "keywords:frequency": lambda text, o: _compare(
        len(re.findall(o["keyword"].strip(), text, re.IGNORECASE)), o["relation"], o["frequency"]
    ),
    "keywords:forbidden_words": lambda text, o: (
        not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in o["forbidden_words"])
    ),
    "keywords:letter_frequency": lambda text, o: _compare(
        Counter(text.lower())[o["letter"].strip().lower()], o["let_relation"], o["let_frequency"]
    ),
    "language:response_language": lambda text, o: _language(text, o["language"]),
    "length_constraints:number_sentences": lambda text, o: _compare(
        len(_SENTENCE_END.findall(text.rstrip() if _SENTENCE_END.search(text.rstrip()[-3:]) else text.rstrip() + ".")),
        o["relation"],
        o["num_sentences"],
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, o: _compare(_words(text), o["relation"], o["num_words"]),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": lambda text, o: (
        len(re.findall(r"\[.*?\]", text)) >= o["num_placeholders"]
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text, o: any(answer in text for answer in _CONSTRAINED),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda text, o: any(
        title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text)
    ),
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, o: text.strip().lower().startswith(o["prompt_to_repeat"].strip().lower()),
    "startend:end_checker": _end,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text, o: _case(text, text.isupper()),
    "change_case:english_lowercase": lambda text, o: _case(text, text.islower()),
    "punctuation:no_comma": lambda text, o: "," not in text,
}
