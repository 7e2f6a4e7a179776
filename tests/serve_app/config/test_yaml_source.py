"""A YAML text with the lines of its keys."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.yaml_source import read_document

scalars = st.none() | st.booleans() | st.integers() | st.text("abc :#-'\"", max_size=8)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner)
)


class TestLines:
    def test_every_key_knows_its_line(self) -> None:
        document = read_document("a: 1\nb:\n  - x\n  - c: 2\n")
        assert document.line_of(("a",)) == 1
        assert document.line_of(("b",)) == 2
        assert document.line_of(("b", 0)) == 3
        assert document.line_of(("b", 1, "c")) == 4

    def test_a_key_the_file_lacks_has_the_line_of_what_would_hold_it(self) -> None:
        document = read_document("a:\n  b:\n    c: 1\n")
        assert document.line_of(("a", "b", "missing")) == 2
        assert document.line_of(("missing",)) is None


class TestReading:
    @given(trees)
    def test_data_is_what_yaml_itself_makes_of_it(self, tree: object) -> None:
        text = yaml.safe_dump(tree)
        document = read_document(text)
        assert document.problems == ()
        assert document.data == tree

    @given(st.text(max_size=200))
    def test_no_text_makes_it_raise(self, text: str) -> None:
        document = read_document(text)
        assert document.problems or document.data is None or document.data == yaml.safe_load(text)

    def test_a_key_that_comes_twice_is_a_problem_with_both_lines(self) -> None:
        (problem,) = read_document("a:\n  b: 1\n  c: 2\n  b: 3\n").problems
        assert str(problem) == "line 4: a.b appears twice, on lines 2 and 4; expected each key once."

    def test_a_syntax_error_names_line_and_column(self) -> None:
        (problem,) = read_document("a: 1\nb: [1, 2\nc: 3\n").problems
        assert problem.line == 3
        assert "is not valid YAML at column" in problem.what

    def test_a_character_yaml_forbids_is_a_problem(self) -> None:
        assert read_document("a: \x00").problems

    def test_an_alias_of_itself_is_refused_and_does_not_loop(self) -> None:
        (problem,) = read_document("a: &a\n  b: *a\n").problems
        assert "too large" in problem.what

    def test_an_alias_bomb_is_refused_before_it_is_expanded(self) -> None:
        lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
        (problem,) = read_document("\n".join(lines)).problems
        assert "too large" in problem.what

    def test_an_empty_file_is_a_problem(self) -> None:
        assert read_document("# nothing\n").problems[0].what == "is empty"
