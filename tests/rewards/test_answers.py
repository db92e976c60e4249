import pytest

from tea.rewards.answers import extract_answers


@pytest.mark.parametrize(
    ("how", "text", "answer"),
    [
        ("boxed", r"so \boxed{1} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("boxed", r"cut off: \boxed{12", None),
        ("last_number", "12 apples cost 1,000", "1000.0"),
        ("last_number", "none", None),
        ("last_line", "a\nb \n\n", "b"),
        ("text", " x ", "x"),
        ("text", "  ", None),
        (r"Answer: (\w)", "Answer: A, no, Answer: B", "B"),
        ("[AB]", "A then B", "B"),
        (r"Answer: (\w)", "nothing", None),
    ],
)
def test_answers(how, text, answer):
    assert extract_answers([text], how) == [answer]


def test_a_bad_expression_is_named():
    with pytest.raises(ValueError, match="boxed, last_number, last_line, text or a regular expression"):
        extract_answers(["x"], "(")
