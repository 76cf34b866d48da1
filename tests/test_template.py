"""References in text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_agent.errors import TemplateError
from nexus_agent.template import parse


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{{secret:a}}", "<secret:a>"),
        ("{{ secret:db:password }}!", "<secret:db:password>!"),
        ("{{config:a.b}}{{flag:c}}", "<config:a.b><flag:c>"),
        (r"\{{secret:a}}", "{{secret:a}}"),
        (r"\\{{x", "\\{{x"),
        ("{ {a}} }} {", "{ {a}} }} {"),
        ("{{secret:a}}{{{secret:b}}"[:12] + "}", "<secret:a>}"),
    ],
)
def test_rendering(text: str, rendered: str) -> None:
    """Each reference once, all else as it stands."""
    assert parse(text).render(lambda reference: f"<{reference}>") == rendered


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{", "line 1, column 1"),
        ("a\nbc {{secret:}} ", "line 2, column 4: '' cannot be"),
        ("{{secret:a b}}", "line 1, column 1"),
        ("{{secret:a|json}}", "begins like a reference"),
        ("{{secert:a}}", "no kind 'secert'"),
        ("{{{secret:a}}", "begins like a reference"),
        ("{{secret:a}", "begins like a reference"),
        ("{{ }}", "begins like a reference"),
        ("{{secret:a.}}", "'a.' cannot be the name"),
        ("{{file:a}}", "no kind 'file'"),
    ],
)
def test_what_only_looks_like_a_reference(text: str, said: str) -> None:
    """An error with its place, never a value with braces in it."""
    with pytest.raises(TemplateError, match="line ") as caught:
        parse(text)
    assert said in str(caught.value)


@given(st.text())
def test_values_are_not_looked_at_again(value: str) -> None:
    """A value may look like anything."""
    assert parse("a{{secret:k}}b").render(lambda _: value) == f"a{value}b"


@given(st.text())
def test_any_text_without_an_opening_comes_out_as_it_went_in(text: str) -> None:
    """Single braces mean nothing."""
    text = text.replace("{{", "{")
    assert parse(text.replace("{{", "{ {")).render(lambda _: "never") == text.replace("{{", "{ {")
