import json

import pytest

from tea.rewards import load_reward
from tea.rewards.ifeval import _CHECKS, IFEvalReward, follows_instruction


def _score(spec, completion, **columns):
    reward = load_reward(spec)
    (score,) = reward(prompts=["?"], completions=[completion], **{key: [value] for key, value in columns.items()})
    assert reward(
        prompts=[[]],
        completions=[[{"role": "assistant", "content": completion}]],
        **{k: [v] for k, v in columns.items()},
    ) == [score]
    return score


@pytest.mark.parametrize(
    ("spec", "completion", "expected"),
    [
        (r"regex:\d{3}", "call 911", 1.0),
        (r"regex:\A\d{3}\Z", "call 911", 0.0),
        ("regex:a.b", "a\nb", 1.0),
        ("think_answer_format", "<think>hm\n</think>\n<answer>4</answer>\n", 1.0),
        ("think_answer_format", "<think>hm</think><answer>4</answer> so 4", 0.0),
        ("think_answer_format", "<think>hm</think><answer>4</answer><answer>5</answer>", 0.0),
        ("think_answer_format", "<answer>4</answer>", 0.0),
        ("length:2-3", "one two three", 1.0),
        ("length:2-3", "one", 0.0),
        ("length:-3", "one two three four", 0.0),
        ("length:4-", "one two three four", 1.0),
        ("length:3-4chars", "abcd", 1.0),
        ("length:3-4chars", "abcde", 0.0),
    ],
)
def test_checks_of_form(spec, completion, expected):
    assert _score(spec, completion) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("regex:(", "not a regular expression"),
        ("length:many", "should read length:MIN-MAX"),
        ("length:-", "should read length:MIN-MAX"),
        ("length:5-2", "allows no length"),
        ("json_schema:missing.json", "no file 'missing.json'"),
    ],
)
def test_names_that_mean_nothing(spec, message):
    with pytest.raises(ValueError, match=message):
        load_reward(spec)


def test_json_schema(tmp_path):
    pytest.importorskip("jsonschema")
    schema = {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "integer"}},
        "additionalProperties": False,
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    for spec, columns in ((f"json_schema:{path}", {}), ("json_schema", {"schema": schema})):
        assert _score(spec, '{"a": 1}', **columns) == 1.0
        assert _score(spec, 'Here:\n```json\n{"a": 1}\n```', **columns) == 1.0
        for wrong in ('{"a": "1"}', '{"a": 1, "b": 2}', "{'a': 1}", "a", "[" * 100_000):
            assert _score(spec, wrong, **columns) == 0.0
    assert _score("json_schema", "{}", schema=None) is None
    assert _score("json_schema", "{}", schema='{"type": "object"}') == 1.0
    with pytest.raises(ValueError, match="needs a column 'schema'"):
        load_reward("json_schema")(prompts=["?"], completions=["{}"])
    with pytest.raises(ValueError, match="not a JSON schema"):
        _score("json_schema", "{}", schema={"type": "number?"})
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_reward(f"json_schema:{path}")


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        (r"So it is \boxed{\frac{1}{2}}.", "1/2", 1.0),
        (r"So it is \boxed{\frac{1}{2}}.", "0.5", 1.0),
        (r"The answer is $2\sqrt{3}$.", r"\sqrt{12}", 1.0),
        (r"\boxed{x^2 + 2x + 1}", "(x+1)^2", 1.0),
        (r"\boxed{3} and \boxed{4}", r"\boxed{3,4}", 1.0),  # several boxes are one set
        (r"\boxed{3} and \boxed{4}", "4", 0.0),
        ("The answer is 1,000", "1000", 1.0),
        (r"\boxed{5}", "6", 0.0),
        ("I do not know.", "6", 0.0),
        ("", "6", 0.0),
        (r"\boxed{5}", None, None),
    ],
)
def test_math_verify(completion, answer, expected):
    pytest.importorskip("math_verify")
    assert _score("math_verify", completion, answer=answer) == expected
    assert _score("math_verify", completion, solution=answer) == expected


def test_math_verify_agrees_with_trls_accuracy_reward():
    pytest.importorskip("math_verify")
    from trl.rewards import accuracy_reward

    completions = [r"\boxed{\frac{1}{3}}", r"\boxed{0.3}", r"so $\boxed{x = 2}$", r"\boxed{12}", "none"]
    solutions = [r"$\frac{1}{3}$", r"$\frac{1}{3}$", r"$x=2$", "$11$", "$1$"]
    conversations = [[{"role": "assistant", "content": text}] for text in completions]
    ours = load_reward("math_verify")(prompts=["?"] * 5, completions=conversations, solution=solutions)
    assert ours == accuracy_reward(completions=conversations, solution=solutions)
    with pytest.raises(ValueError, match="needs a column 'answer' or 'solution'"):
        load_reward("math_verify")(prompts=["?"], completions=["1"])


# One that follows and one that does not, for every instruction; checked against IFEval's own program.
IFEVAL = {
    "keywords:existence": ({"keywords": ["cat", "dog"]}, "A Cat and a dog.", "A cat."),
    "keywords:frequency": ({"keyword": "the", "frequency": 2, "relation": "at least"}, "the other", "the"),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, "concatenate", "A Cat."),
    "keywords:letter_frequency": ({"letter": "A", "let_frequency": 2, "let_relation": "less than"}, "Ab", "Aa"),
    "language:response_language": (
        {"language": "fr"},
        "Bonjour tout le monde, comment allez-vous",
        "How are you today",
    ),
    "length_constraints:number_sentences": ({"num_sentences": 2, "relation": "at least"}, "One. Two", "One."),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "One\n***\nTwo", "One\n\nTwo"),
    "length_constraints:number_words": ({"num_words": 3, "relation": "less than"}, "one two", "one two three"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Two"},
        "One.\n\n'two' it is",
        "One.\n\nThree",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] of [city]", "[name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.P.S"}, "Bye\nP. P. S. Bye", "Bye\nP.S. Bye"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* one\n- two", "* one\n* two\n* three"),
    "detectable_format:constrained_response": ({}, "My answer is no.", "No."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*one* *two*", "*one* **"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "PART", "num_sections": 2},
        "PART 1 a PART 2 b",
        "PART 1",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<On tea>>\nTea.", "<< >>\nTea."),
    "combination:two_responses": ({}, "One\n******\nTwo", "One\n******\nOne"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi! Say hi."),
    "startend:end_checker": ({"end_phrase": "That is all."}, 'So. "That is all."', "That is all. Bye"),
    "startend:quotation": ({}, '"Tea."', '"'),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "TEA and WELL-MADE coffee",
        "TEA",
    ),
    "change_case:english_capital": ({}, "THIS IS A SENTENCE ABOUT TEA", "THIS IS A Sentence about tea"),
    "change_case:english_lowercase": ({}, "this is a sentence about tea", "This is a sentence about tea"),
    "punctuation:no_comma": ({}, "tea and milk", "tea, and milk"),
}


@pytest.mark.parametrize("name", sorted(IFEVAL))
def test_ifeval_instructions(name):
    if name.startswith(("language", "change_case:english")):
        pytest.importorskip("langdetect")
    options, follows, does_not = IFEVAL[name]
    assert follows_instruction(follows, name, options)
    assert not follows_instruction(does_not, name, options)
    assert not follows_instruction(" ", name, options)


def test_ifeval_knows_all_25_instructions():
    assert set(_CHECKS) == set(IFEVAL)
    assert len(IFEVAL) == 25


def test_ifeval_reward():
    names = ["punctuation:no_comma", "length_constraints:number_words"]
    # As the data set stores it: every option of every instruction, most of them None.
    options = [{"num_words": None}, {"num_words": 3, "relation": "at least", "keyword": None}]
    columns = {"instruction_id_list": names, "kwargs": options}
    assert _score("ifeval", "one two three", **columns) == 1.0
    assert _score("ifeval", "one, two", **columns) == 0.0
    assert _score("ifeval:share", "one, two, three", **columns) == 0.5
    loose = {"instruction_id_list": names[:1], "kwargs": json.dumps(options[:1])}
    assert _score("ifeval", "Sure, here it is:\none two", **loose) == 0.0
    assert _score("ifeval:loose", "Sure, here it is:\none two", **loose) == 1.0
    assert _score("ifeval", "x", instruction_id_list=[], kwargs=[]) is None
    for columns, message in (
        ({}, "needs the columns 'instruction_id_list' and 'kwargs'"),
        ({"instruction_id_list": ["a:b"], "kwargs": [{}]}, "no instruction 'a:b'"),
        ({"instruction_id_list": names, "kwargs": [{}]}, "2 instructions and kwargs for 1"),
        ({"instruction_id_list": names[1:], "kwargs": [{}]}, "lacks its option 'relation'"),
    ):
        with pytest.raises(ValueError, match=message):
            _score("ifeval", "one", **columns)
    with pytest.raises(ValueError, match="ifeval:strict"):
        load_reward("ifeval:strict")
    assert IFEvalReward(share=True, loose=True).source == "ifeval:share:loose"
