from __future__ import annotations

import copy
import pickle
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import Field, field_validator

from robustbench_cli.core import settings
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import RenamedParameter, Settings, read_value


class Example(Settings):
    """The first line.

    More lines.
    """

    paper: ClassVar[str] = "none"

    steps: int = Field(40, ge=1, description="steps")
    size: float | None = Field(None, gt=0, description="a length")
    start: bool = Field(True, description="a switch")
    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field((5, 5), description="numbers")
    rule: Literal["vote", "mean"] = Field("vote", description="a word")
    even: int = Field(2, description="an even number")

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("Must be even")
        return value


def test_words_are_read_as_what_they_say() -> None:
    """Strings as ``--set`` gives them become numbers, lists, switches and nothing; values of Python stay as they are."""
    words = {"steps": "7", "size": "2/255", "start": "no", "channels": "[2, 3]", "rule": "mean"}
    assert Example.from_parameters({key: read_value(value) for key, value in words.items()}, name="example") == Example(
        steps=7, size=2 / 255, start=False, channels=(2, 3), rule="mean"
    )
    assert Example.from_parameters({"size": read_value("1e-3")}, name="example").size == 0.001
    assert Example.from_parameters({"size": read_value("null")}, name="example").size is None
    assert Example.from_parameters({"channels": [4], "size": 0.5}, name="example") == Example(channels=(4,), size=0.5)
    assert Example.from_parameters({}, name="example") == Example()


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("step", "3", "x has no parameter 'step': did you mean 'steps'?"),
        ("steps", "0", "x.steps is 0: input should be greater than or equal to 1"),
        ("steps", "many", "x.steps is 'many': input should be a valid integer, unable to parse string as an integer"),
        ("steps", "2.5", "x.steps is 2.5: input should be a valid integer, got a number with a fractional part"),
        ("steps", "[1, 2]", "x.steps is [1, 2]: input should be a valid integer"),
        ("size", ".nan", "x.size is nan: input should be a finite number"),
        ("size", ".inf", "x.size is inf: input should be a finite number"),
        ("size", "2/0", "x.size is '2/0': input should be a valid number, unable to parse string as a number"),
        ("start", "[", "x.start is '[': input should be a valid boolean, unable to interpret input"),
        ("channels", "[5, 0]", "x.channels.1 is 0: input should be greater than or equal to 1"),
        ("channels", "5", "x.channels is 5: give a list, such as [5, 5]"),
        (
            "steps",
            "x" * 100,
            f"x.steps is '{'x' * 78}…: input should be a valid integer, unable to parse string as an integer",
        ),
        ("rule", "votes", "x.rule is 'votes': input should be 'vote' or 'mean'"),
        ("even", "3", "x.even is 3: must be even"),
    ],
)
def test_a_wrong_parameter_is_one_line(key: str, value: str, line: str) -> None:
    """The line says which parameter of what, what it is, and what would be right."""
    with pytest.raises(UserError) as refusal:
        Example.from_parameters({key: read_value(value)}, name="x")
    assert str(refusal.value) == line


def test_a_method_is_frozen() -> None:
    """Parameters cannot change after they were checked."""
    example = Example()
    with pytest.raises(UserError, match=r"^Example\.steps cannot be set: give it to a new one, Example\(steps=3\)$"):
        example.steps = 3  # type: ignore[misc]
    assert example.steps == 40


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"stepz": 3}, "Example has no parameter 'stepz': did you mean 'steps'?"),
        ({"n_iter": 3}, "Example has no parameter 'n_iter': did you mean 'steps'?"),
        ({"steps": 0}, "Example.steps is 0: input should be greater than or equal to 1"),
        (
            {"steps": "many"},
            "Example.steps is 'many': input should be a valid integer, unable to parse string as an integer",
        ),
        ({"size": "two"}, "Example.size is 'two': input should be a valid number, unable to parse string as a number"),
        ({"size": np.nan}, "Example.size is nan: input should be a finite number"),
        ({"rule": "votes"}, "Example.rule is 'votes': input should be 'vote' or 'mean'"),
        ({"even": 3}, "Example.even is 3: must be even"),
    ],
)
def test_a_wrong_parameter_from_python_is_one_line(parameters: dict[str, Any], line: str) -> None:
    """The constructor tells what the command line tells, with the class's name, and not pydantic's lines."""
    with pytest.raises(UserError) as refusal:
        Example(**parameters)
    assert str(refusal.value) == line


def test_parameters_have_names() -> None:
    """A value without a name is answered with the name of the first parameter; a missing one with what it is."""
    with pytest.raises(UserError, match=r"^Example takes its parameters by name: give Example\(steps=40\)$"):
        Example(40)  # type: ignore[call-arg, misc]

    class Needs(Settings):
        paper: ClassVar[str] = "none"
        model: str = Field(description="the model's file")

    with pytest.raises(UserError, match=r"^Needs needs Needs\.model: the model's file$"):
        Needs()  # type: ignore[call-arg]


def test_numbers_of_numpy_and_torch_and_fractions_are_taken() -> None:
    """What computations give, and a step size as papers write it, count as Python's numbers."""
    expected = Example(steps=7, size=2 / 255, start=False, channels=(2, 3))
    assert expected == Example(
        steps=np.int64(7),  # type: ignore[arg-type]
        size="2/255",  # type: ignore[arg-type]
        start=np.bool_(0),  # type: ignore[arg-type]
        channels=np.array([2, 3]),  # type: ignore[arg-type]
    )
    assert expected == Example(
        steps=torch.tensor(7),  # type: ignore[arg-type]
        size=torch.tensor(2 / 255, dtype=torch.float64),  # type: ignore[arg-type]
        start=False,
        channels=torch.tensor([2, 3]),  # type: ignore[arg-type]
    )


def test_methods_survive_copies_and_their_own_data() -> None:
    """A method is the same after a pickle, a copy, and its own JSON."""
    example = Example(steps=7, channels=(2, 3))
    assert pickle.loads(pickle.dumps(example)) == example == copy.deepcopy(example)
    assert Example.model_validate(example.model_dump()) == example
    assert Example.model_validate_json(example.model_dump_json()) == example


class Renamed(Settings):
    """A method with a renamed parameter."""

    paper: ClassVar[str] = "none"

    l1_sparsity: float = Field(0.03, gt=0, description="a share", json_schema_extra={"formerly": "moved"})
    steps: int = Field(40, description="steps")


@pytest.fixture
def _unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rename has been warned of yet."""
    monkeypatch.setattr(settings, "_warned", set())


@pytest.mark.usefixtures("_unwarned")
def test_a_former_name_sets_the_parameter_and_warns_once() -> None:
    """From Python and from a user's text, with one line for each name of the method; the second time is silent."""
    with pytest.warns(RenamedParameter, match=r"^Renamed: parameter 'moved' is now called 'l1_sparsity'$") as warned:
        assert Renamed(moved=0.1) == Renamed(l1_sparsity=0.1)  # type: ignore[call-arg]
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert Renamed(moved=0.2).l1_sparsity == 0.2  # type: ignore[call-arg]
    with pytest.warns(RenamedParameter, match=r"^x: parameter 'moved' is now called 'l1_sparsity'$"):
        assert Renamed.from_parameters({"moved": "1/10", "steps": 3}, name="x") == Renamed(l1_sparsity=0.1, steps=3)


@pytest.mark.usefixtures("_unwarned")
def test_a_parameter_is_not_set_by_both_of_its_names() -> None:
    """One line says which name to keep; a wrong value is reported by the current name."""
    line = r"^x\.moved is the former name of x\.l1_sparsity: set only l1_sparsity$"
    with pytest.raises(UserError, match=line):
        Renamed.from_parameters({"moved": 0.1, "l1_sparsity": 0.1}, name="x")
    with pytest.warns(RenamedParameter), pytest.raises(UserError, match=r"^x\.l1_sparsity is 0: "):
        Renamed.from_parameters({"moved": 0}, name="x")


def test_stored_data_is_renamed_in_silence_and_hashed_by_former_names() -> None:
    """Nobody can change a stored file, so it warns of nothing; and hashes use the names of before."""
    assert Renamed.former_names() == {"l1_sparsity": "moved"}
    current = Renamed.current_names({"moved": 0.1, "steps": 3}, name="x", warn=False)
    assert current == {"l1_sparsity": 0.1, "steps": 3}
    assert Renamed.by_former_names(current) == {"moved": 0.1, "steps": 3}
    assert [Renamed.current_name(name) for name in ("moved", "l1_sparsity", "steps", "other")] == [
        *("l1_sparsity", "l1_sparsity", "steps", "other")
    ]


def test_a_subclass_cannot_declare_a_former_name() -> None:
    """Nothing would read it, and its identity would be that of another attack."""
    with pytest.raises(UserError, match=r"^Mine.moved is now called l1_sparsity: rename the field$"):

        class Mine(Renamed):
            moved: float = 0.5


def test_a_whole_number_beyond_any_use_is_refused() -> None:
    """An attack of so many steps would never end."""
    with pytest.raises(UserError, match=r"example\.steps is 9{23}: give at most 1,000,000,000"):
        Example.from_parameters({"steps": 99999999999999999999999}, name="example")
    assert Example.from_parameters({"steps": 10**9}, name="example").steps == 10**9


def test_a_number_beyond_float32_is_refused() -> None:
    """Models compute in float32, where torch refuses such a radius or step with an error of its own."""
    with pytest.raises(UserError, match=r"example\.l1_sparsity is 1e\+39: give a number between -1e\+38 and 1e\+38"):
        Renamed.from_parameters({"l1_sparsity": 1e39}, name="example")
    assert Renamed.from_parameters({"l1_sparsity": 1e38}, name="example").l1_sparsity == 1e38
