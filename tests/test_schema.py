"""The strict reader of dataclasses: what it converts, and the one line with which it refuses."""

import dataclasses
import json
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rf_jax import schema
from rf_jax.errors import InputError
from rf_jax.schema import Fraction, Limit, NonNegative, Positive

Interval = Annotated[tuple[float, float], Limit("[low, high]", lambda x: x[0] <= x[1])]


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    size: NonNegative = 1.0

    def __post_init__(self):
        if self.name == "bad":
            raise InputError("name: expected another name")


@dataclasses.dataclass(frozen=True)
class Whole:
    count: Positive
    weight: float = 0.0
    share: Fraction = 0.5
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    point: tuple[float, float, float] = (0.0, 0.0, 0.0)
    interval: Interval = (0.0, 1.0)
    limit: Positive | None = None
    parts: tuple[Part, ...] = (Part("default"),)
    named: dict[str, Part] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Flat:
    """Its keys are not its fields."""

    number: int = 3

    @classmethod
    def from_dict(cls, values):
        if values["n"] < 0:
            raise InputError("n: expected a number >= 0")
        return cls(values["n"])

    def to_flat(self):
        return {"n": self.number}

    @classmethod
    def flat_hints(cls):
        return {"n": int}


@dataclasses.dataclass(frozen=True)
class Outer:
    flat: Flat


def parse(**values):
    return schema.parse(Whole, {"count": 1} | values)


def test_values_are_converted():
    whole = schema.parse(
        Whole,
        {
            "count": 3,
            "weight": 2,
            "point": [1, 2.5, 3],
            "limit": 4,
            "parts": [{"name": "x", "size": 2}],
            "named": {"y": {"name": "y"}},
        },
    )
    assert whole == Whole(
        3, 2.0, point=(1.0, 2.5, 3.0), limit=4, parts=(Part("x", 2.0),), named={"y": Part("y")}
    )
    assert [type(x) for x in (whole.count, whole.weight, whole.parts[0].size)] == [
        int,
        float,
        float,
    ]
    assert all(type(x) is float for x in whole.point)
    assert parse(limit=None).limit is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weigth": 1}, "weigth: unknown key; did you mean 'weight'?"),
        (
            {"colour": 1},
            "colour: unknown key; expected count, weight, share, flag, kind, point, interval, "
            "limit, parts, named",
        ),
        ({7: 1}, "7: unknown key; expected count, weight"),
        ({"count": 0}, "count: expected an integer >= 1, found 0"),
        ({"count": 1.0}, "count: expected an integer >= 1, found 1.0"),
        ({"count": True}, "count: expected an integer >= 1, found true"),
        ({"count": None}, "count: expected an integer >= 1, found null"),
        ({"weight": "1"}, 'weight: expected a number, found "1"'),
        ({"weight": None}, "weight: expected a number, found null"),
        ({"weight": True}, "weight: expected a number, found true"),
        ({"weight": float("nan")}, "weight: expected a finite float32 number, found NaN"),
        ({"weight": -(10**400)}, "weight: expected a finite float32 number, found -1000"),
        ({"weight": 1e39}, "weight: expected a finite float32 number, found 1e+39"),
        ({"share": float("inf")}, "share: expected a finite float32 number, found Infinity"),
        ({"share": 1.5}, "share: expected a number in [0, 1], found 1.5"),
        ({"share": "x" * 90}, 'share: expected a number in [0, 1], found "' + 56 * "x" + "..."),
        ({"flag": 1}, "flag: expected true or false, found 1"),
        ({"kind": "c"}, 'kind: expected one of "a", "b", found "c"'),
        ({"kind": []}, 'kind: expected one of "a", "b", found []'),
        ({"point": [1, 2]}, "point: expected a list of 3 numbers, found [1, 2]"),
        ({"point": 1}, "point: expected a list of 3 numbers, found 1"),
        ({"point": [1, None, 2]}, "point[1]: expected a number, found null"),
        ({"interval": [2, 1]}, "interval: expected [low, high], found [2, 1]"),
        ({"limit": 0}, "limit: expected an integer >= 1, found 0"),
        ({"parts": []}, "parts: expected a list with at least one entry, found []"),
        ({"parts": [{}]}, "parts[0].name: missing key"),
        ({"parts": [{"name": "x", "size": -1}]}, "parts[0].size: expected a number >= 0, found -1"),
        ({"parts": [{"name": "bad"}]}, "parts[0].name: expected another name"),
        ({"named": {}}, "named: expected a JSON object with at least one entry, found {}"),
        ({"named": {"a\nb": 1}}, 'named."a\\nb": expected a JSON object, found 1'),
        ({"named": [{(1, 2): object}]}, "named: expected a JSON object with at least one entry"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_refusals(values, message):
    with pytest.raises(InputError) as error:
        schema.parse(Whole, {"count": 1} | values)
    found = str(error.value)
    assert found.startswith(message), found
    assert "\n" not in found and len(found) < 200


def test_missing_keys_and_other_roots():
    with pytest.raises(InputError, match=r"^config\.count: missing key$"):
        schema.parse(Whole, {}, "config")
    with pytest.raises(InputError, match=r"^expected a JSON object, found \[1\]$"):
        schema.parse(Whole, [1])


@settings(max_examples=30)
@given(
    st.builds(
        Whole,
        count=st.integers(1, 2**40),
        weight=st.floats(-1e30, 1e30),
        share=st.floats(0, 1),
        kind=st.sampled_from(["a", "b"]),
        limit=st.none() | st.integers(1),
        parts=st.lists(st.builds(Part, st.just("x"), st.floats(0, 9)), min_size=1).map(tuple),
        named=st.dictionaries(st.text(), st.builds(Part, st.just("y")), min_size=1),
    )
)
def test_round_trip_through_json(whole):
    assert schema.parse(Whole, json.loads(json.dumps(schema.to_dict(whole)))) == whole


def test_keys_that_are_not_fields_are_left_to_the_class():
    assert schema.parse(Outer, {"flat": {"n": 5}}) == Outer(Flat(5))
    assert schema.to_dict(Outer(Flat(5))) == {"flat": {"n": 5}}
    assert schema.flat_hints(Flat) == {"n": int}
    assert schema.flat_hints(Outer) == {"flat": Flat}
    with pytest.raises(InputError, match=r"^flat\.n: expected a number >= 0$"):
        schema.parse(Outer, {"flat": {"n": -1}})


def test_dataclasses_made_in_python():
    schema.check_fields(Part("x", 2))
    with pytest.raises(InputError, match=r"^size: expected a number >= 0, found -2"):
        schema.check_fields(Part("x", -2))
