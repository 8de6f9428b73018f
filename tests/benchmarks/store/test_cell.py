from __future__ import annotations

import hashlib
import json
import pickle
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell

IDENTITY = (
    '{"attack":{"name":"pgd","parameters":{"step_size":null,"steps":40},"source":null},'
    f'"checkpoint":"{"c" * 64}","data":"{"d" * 64}","defenses":[],"eot":1,"eps":0.03125,"n":4,"norm":"linf",'
    '"repeats":1,"seed":0,"targeted":"no","version":1}'
)
"""What makes the cell of the test below, written out."""


def test_the_identity_is_pinned(make_cell: MakeCell) -> None:
    """The hash of a cell never changes from one version to the next, or every store would be computed anew."""
    assert make_cell(eps=1 / 32).id == hashlib.sha256(IDENTITY.encode()).hexdigest()[:20] == "c5a4c2fcde1b9c7bfb61"


OWN = MethodSpec(name="here/own.py:Mine", source="a" * 64)
TRANSFER = MethodSpec(
    name="transfer", parameters={"surrogate": "a"}, changed=("surrogate",), surrogates={"surrogate": "5" * 64}
)
HRS = MethodSpec(name="hrs", parameters={"channels": [5, 5]}, changed=("channels",))


@pytest.mark.parametrize(
    ("changes", "identity"),
    [
        ({}, "5acbdbed01e9c496ca52"),
        ({"defenses": (HRS,), "eot": "exact", "repeats": 10}, "8335c5c09da0bdfb06a0"),
        ({"eot": "frozen", "seed": 7, "targeted": "least-likely"}, "fe5affae6d1cba682cd5"),
        ({"eps": None, "norm": "l2"}, "7893092f8399fc8f8df2"),
        ({"precision": "tf32"}, "5acbdbed01e9c496ca52"),
        ({"precision": "bf16"}, "72d6561e3f26deae61f3"),
        ({"accounting": "single-draw", "eot": 10}, "84498e4639f3d5fdaf0b"),
        ({"after": "0" * 20, "cascade": True}, "91a7dde00d2847f0b117"),
        ({"after": "0" * 20, "only_if": "blinded"}, "1227c9bbdc5a595f2e24"),
        ({"attack": OWN, "defenses": (OWN,)}, "c044d249294ee0c43e7e"),
        ({"attack": TRANSFER, "precision": "bf16", "accounting": "single-draw"}, "3192d14ff0c2e36f4ee7"),
    ],
)
def test_the_identities_of_stored_cells_are_pinned(make_cell: MakeCell, changes: dict[str, Any], identity: str) -> None:
    """The code before :class:`EvaluationOptions` computed these hashes (commit 74bedeb)."""
    assert make_cell(**changes).id == identity


def test_the_json_of_a_cell_has_its_fields(make_cell: MakeCell) -> None:
    """First what is evaluated, then the options of the evaluation, then the place in a cascade."""
    names = list(json.loads(make_cell().model_dump_json()))
    assert names[:8] == ["dataset", "data", "n", "model", "checkpoint", "defenses", "attack", "corruption"]
    assert set(names[8:-3]) == set(EvaluationOptions.model_fields)
    assert names[-3:] == ["after", "cascade", "only_if"]


def test_a_new_evaluation_option_is_one_field(make_cell: MakeCell) -> None:
    """A cell takes it over, and its default leaves the identities of stored cells as they are."""

    class Options(EvaluationOptions):
        clipped: bool = False

    class NewCell(Cell, Options):
        pass

    usual = dict(make_cell())
    assert NewCell(**usual).id == make_cell().id
    assert NewCell(**usual, clipped=True).id != make_cell().id


def test_a_cell_gives_its_evaluation_options(make_cell: MakeCell) -> None:
    """All of them, and nothing of what is evaluated."""
    options = make_cell(eot="exact", precision="bf16").evaluation_options
    assert options == EvaluationOptions(norm="linf", eps=8 / 255, eot="exact", repeats=1, precision="bf16")


@pytest.mark.parametrize(
    "change",
    [
        {"data": "e" * 64},
        {"n": 5},
        {"checkpoint": "e" * 64},
        {"defenses": (MethodSpec(name="hrs", parameters={"channels": [5, 5]}),)},
        {"attack": MethodSpec(name="pgd", parameters={"steps": 41, "step_size": None})},
        {"attack": MethodSpec(name="cw-pgd", parameters={"steps": 40, "step_size": None})},
        {"norm": "l2"},
        {"eps": None},
        {"eps": 9 / 255},
        {"targeted": "all"},
        {"eot": "exact"},
        {"repeats": 10},
        {"seed": 1},
    ],
    ids=str,
)
def test_what_changes_the_result_is_another_cell(make_cell: MakeCell, change: dict[str, Any]) -> None:
    """A changed checkpoint, parameter, threat, slice or seed is another cell."""
    assert make_cell(**change).id != make_cell().id


def test_what_changes_nothing_is_the_same_cell(make_cell: MakeCell) -> None:
    """How data and model were called, which parameters are marked as changed, and JSON and back leave the cell as it is."""
    cell = make_cell(attack=MethodSpec(name="pgd", parameters={"step_size": None, "steps": 40}, changed=("steps",)))
    assert cell.id == make_cell(dataset="imagefolder:/elsewhere", model="my.py:Net").id
    assert type(cell).model_validate(json.loads(cell.model_dump_json())) == cell


def test_a_users_own_method_is_told_by_its_source_and_not_by_its_path(make_cell: MakeCell) -> None:
    """Moving the file changes nothing, editing it does, and so does another class in it."""
    here = MethodSpec(name="here/own.py:Mine", source="a" * 64)
    cell = make_cell(attack=here, defenses=(here,))
    moved = MethodSpec(name="/there/other.py:Mine", source="a" * 64)
    assert make_cell(attack=moved, defenses=(moved,)).id == cell.id
    for other in (here.model_copy(update={"source": "b" * 64}), here.model_copy(update={"name": "here/own.py:Other"})):
        assert make_cell(attack=other, defenses=(here,)).id != cell.id
        assert make_cell(attack=here, defenses=(other,)).id != cell.id


def test_a_surrogate_is_told_by_its_model_and_not_by_its_path(make_cell: MakeCell) -> None:
    """Another file with the same model is the same cell; another model in the same file, or in another parameter, is not."""
    here = MethodSpec(name="transfer", parameters={"surrogate": "a", "next": "a"}, surrogates={"surrogate": "5" * 64})
    moved = here.model_copy(update={"parameters": {"surrogate": "/there/b", "next": "a"}})
    assert make_cell(attack=moved).id == make_cell(attack=here).id
    for other in ({"surrogate": "6" * 64}, {"next": "5" * 64}, {}):
        assert make_cell(attack=here.model_copy(update={"surrogates": other})).id != make_cell(attack=here).id
    with pytest.raises(ValueError, match="'other' is called a surrogate and is no parameter of transfer"):
        MethodSpec(name="transfer", parameters={"surrogate": "a"}, surrogates={"other": "5" * 64})


def test_a_label_names_what_differs_from_the_defaults(make_cell: MakeCell) -> None:
    """A defense is called by its name with the changed parameters; several are joined; none is ``none``."""
    hrs = MethodSpec(name="hrs", parameters={"channels": [10, 10], "split": "auto"}, changed=("channels",))
    jpeg = MethodSpec(name="jpeg", parameters={"quality": 75, "mode": "fast"}, changed=("quality", "mode"))
    assert make_cell(defenses=(hrs, jpeg)).defense == "hrs(channels=[10,10])+jpeg(quality=75,mode=fast)"
    assert make_cell().defense == "none"
    inner = {"name": "di-fgsm", "steps": 20, "decay": 1.0}
    transfer = MethodSpec(
        name="transfer",
        parameters={"surrogate": "a.safetensors", "attack": inner},
        changed=("surrogate", "attack.name", "attack.steps"),
    )
    label = "transfer(surrogate=a.safetensors,attack.name=di-fgsm,attack.steps=20)"
    assert make_cell(attack=transfer).attack_label == label
    assert make_cell(precision="bf16").attack_label == "pgd(precision=bf16)"
    assert make_cell(attack=transfer, precision="bf16", cascade=True).attack_label == f"+{label[:-1]},precision=bf16)"


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_a_fraction_is_read_to_the_last_bit(numerator: int, denominator: int) -> None:
    """``8/255`` is the double that is nearest to 8/255, and is shown as it was written."""
    words = f" {numerator}/{denominator} "
    assert parse_eps(words).value == float(Fraction(numerator, denominator))
    assert parse_eps(words).text == words.strip()


@pytest.mark.parametrize(("words", "value"), [("0", 0.0), ("0.03", 0.03), ("1e-3", 1e-3), ("0.5/255", 0.5 / 255)])
def test_decimal_numbers_are_read(words: str, value: float) -> None:
    """A radius is a decimal number or a fraction of such."""
    assert parse_eps(words).value == value


def test_zero_has_no_sign(make_cell: MakeCell) -> None:
    """``-0`` is the radius 0, and no cell of its own."""
    assert make_cell(eps=parse_eps("-0").value).id == make_cell(eps=parse_eps("0").value).id


@pytest.mark.parametrize("words", ["", "abc", "8/", "/255", "8/0", "1/2/3", "8 255", "0x1"])
def test_what_is_no_radius_is_refused(words: str) -> None:
    """The message says what would have been understood."""
    with pytest.raises(UserError, match=f"eps is '{words}': give a number or a fraction, such as 0.03 or 8/255"):
        parse_eps(words)


@pytest.mark.parametrize("words", ["-1", "-8/255", "nan", "inf", "1e999", "1/nan"])
def test_what_no_perturbation_can_have_is_refused(words: str) -> None:
    """A negative or infinite radius, or none, is a mistake."""
    with pytest.raises(UserError, match=f"eps is '{words}': it must be 0 or more, and finite"):
        parse_eps(words)


@pytest.mark.parametrize("words", ["1_0", "0x10", "\u0661", "8/2_5", "1e1_0", "1 0", "0.1.0", "."])
def test_numbers_that_only_a_program_would_write_are_refused(words: str) -> None:
    """What Python reads and a person misreads is no radius: underscores, hexadecimals, digits of other scripts."""
    with pytest.raises(UserError, match="give a number or a fraction"):
        parse_eps(words)


def test_a_copy_has_its_own_identity(make_cell: MakeCell) -> None:
    """Also where that of the original has been asked for; they are equal where their fields are."""
    cell = make_cell()
    first = cell.id
    other = cell.model_copy(update={"seed": 1})
    assert other.id == make_cell(seed=1).id != first
    assert other == make_cell(seed=1)
    assert cell.model_dump() == make_cell().model_dump()
    assert cell.model_copy() == cell
    assert pickle.loads(pickle.dumps(cell)) == cell


def test_the_identity_is_that_of_the_whole_json(make_cell: MakeCell) -> None:
    """It is hashed from texts of its parts; texts in it that look like such parts are strings to the hash."""
    tricky = '"attack":null,"defenses":null'
    attack = MethodSpec(name=tricky, parameters={tricky: None, "attack": None, "defenses": None})
    defense = MethodSpec(name="hrs", parameters={"attack": None, "defenses": None})
    cell = make_cell(attack=attack, defenses=(defense, defense), data=tricky, checkpoint=tricky)
    identity = json.loads(IDENTITY) | {
        "attack": attack.identity,
        "defenses": [defense.identity] * 2,
        "data": tricky,
        "checkpoint": tricky,
        "eps": cell.eps,
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    assert cell.id == hashlib.sha256(text.encode()).hexdigest()[:20]


def test_cells_share_equal_methods_and_no_others(make_cell: MakeCell) -> None:
    """A store has thousands of cells and few methods; 1, 1.0 and true are different parameters."""
    contents = [make_cell(attack=MethodSpec(name="pgd", parameters={"steps": 1})).model_dump_json() for _ in range(2)]
    first, second = map(Cell.model_validate_json, contents)
    assert first.attack is second.attack
    assert first.model_fields_set is second.model_fields_set
    others = [make_cell(attack=MethodSpec(name="pgd", parameters={"steps": value})) for value in (1.0, True)]
    assert [repr(other.attack.parameters["steps"]) for other in others] == ["1.0", "True"]
    assert len({cell.id for cell in (first, *others)}) == 3


def test_a_corruption_is_part_of_the_identity(make_cell: MakeCell) -> None:
    """Without one, the identity is that of earlier versions; name and severity count, and a user's file by its content."""
    plain = make_cell()
    assert make_cell(corruption=None).id == plain.id == "5acbdbed01e9c496ca52"

    def corrupted(name: str = "fog", severity: int = 3, **changes: Any) -> Cell:
        spec = MethodSpec(name=name, parameters={"severity": severity}, changed=("severity",), **changes)
        return make_cell(corruption=spec)

    cells = [plain, corrupted(), corrupted(severity=4), corrupted("frost"), corrupted("a.py:Fog", source="x")]
    assert len({cell.id for cell in cells}) == 5
    assert corrupted("b.py:Fog", source="x").id == corrupted("a.py:Fog", source="x").id
    assert (corrupted().corruption_label, corrupted().severity) == ("fog", 3)
    assert (plain.corruption_label, plain.severity) == (None, None)
    assert Cell.model_validate_json(corrupted().model_dump_json()) == corrupted()


@pytest.mark.parametrize("severity", [0, 6, 10**30, "3", None])
def test_a_severity_is_one_of_five(make_cell: MakeCell, severity: object) -> None:
    """A table could not even hold some of the others."""
    with pytest.raises(ValidationError, match="the severity of the corruption is"):
        make_cell(corruption=MethodSpec(name="fog", parameters={"severity": severity}))
