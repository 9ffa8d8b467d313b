import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceflow.components.augment.policy import DEFAULT, Policy
from faceflow.components.common.errors import SettingsError
from faceflow.components.common.operations import OPERATIONS, Variant


def seed_policy(images):
    """Images kept and copies of each, as the Keras MobileFaceNet project's README states its policy."""
    if images > 350:
        return 350, 0
    if 200 < images <= 350:
        return images, 0
    if 90 < images <= 200:
        return images, 1
    if 30 < images <= 90:
        return images, 3
    return 0, 0


@given(st.integers(1, 5000))
def test_the_default_policy_is_the_stated_one(images):
    policy = Policy.parse(DEFAULT)
    rule = policy.rules[policy.decide(images)]
    kept, copies = seed_policy(images)
    assert rule.kept(images) == kept
    assert rule.images_out(images) == kept * (1 + copies)


@pytest.mark.parametrize("images", [1, 30, 31, 90, 91, 200, 201, 350, 351, 352])
def test_the_default_policy_at_its_ends(images):
    policy = Policy.parse(DEFAULT)
    rule = policy.rules[policy.decide(images)]
    kept, copies = seed_policy(images)
    assert (rule.kept(images), len(rule.variants)) == (kept, copies if kept else 0)


@st.composite
def policies(draw):
    """Texts of valid policies, with what each says as (lowest count, sample or None, copies) a rule."""
    lowest = sorted(draw(st.lists(st.integers(2, 400), max_size=5, unique=True)), reverse=True)
    rules = [(low, *draw(actions())) for low in [*lowest, 1]]
    text = []
    for low, sample, copies in rules:
        action = {None: "keep", 0: "drop"}.get(sample, f"sample({sample})")
        if sample != 0:
            action += "".join(f",opening( {2 + number} )" for number in range(copies))
        condition = draw(st.sampled_from([f"n > {low - 1}:", f"n>={low} : "])) if low > 1 else ""
        text.append(condition + action)
    return " | ".join(text), rules


def actions():
    return st.tuples(st.none() | st.integers(0, 60), st.integers(0, 3))


@given(policies(), st.integers(1, 500))
def test_the_first_rule_that_matches_decides(policy, images):
    text, rules = policy
    parsed = Policy.parse(text)
    _, sample, copies = next(rule for rule in rules if images >= rule[0])
    kept = images if sample is None else min(images, sample)
    rule = parsed.rules[parsed.decide(images)]
    assert (rule.kept(images), rule.images_out(images)) == (kept, kept * (1 + copies))


@given(policies())
def test_the_bands_cover_every_count_once(policy):
    rules = Policy.parse(policy[0]).rules
    for images in range(1, 450):
        assert sum(rule.matches(images) for rule in rules) == 1


@given(policies())
def test_the_canonical_text_says_the_same(policy):
    parsed = Policy.parse(policy[0])
    assert Policy.parse(str(parsed)) == parsed


@st.composite
def spelled_operations(draw):
    """An operation as a person may write it, and the variant that it means."""
    found = draw(st.sampled_from(sorted(OPERATIONS.values(), key=lambda each: each.name)))
    values, written = [], []
    named = draw(st.integers(0, len(found.arguments)))  # arguments from this place on are given by name, or left out
    for place, argument in enumerate(found.arguments):
        if argument.kind is int:
            value = draw(st.integers(int(argument.minimum), int(argument.maximum)))
        else:
            value = draw(st.floats(argument.minimum, argument.maximum))
        text = draw(st.sampled_from([repr(value), f" {value!r} "]))
        if place >= named:
            if draw(st.booleans()):
                values.append(argument.default)
                continue
            text = f"{argument.name} = {text}"
        values.append(value)
        written.append(text)
    brackets = f"({','.join(written)})" if written or draw(st.booleans()) else ""
    return found.name + brackets, Variant(found.name, tuple(values))


@given(st.lists(spelled_operations(), min_size=1, max_size=4, unique_by=lambda each: each[1]))
def test_operations_survive_writing_and_reading(operations):
    policy = Policy.parse(f"n > 4: keep, {', '.join(text for text, _ in operations)} | drop")
    assert policy.rules[0].variants == tuple(variant for _, variant in operations)
    assert Policy.parse(str(policy)) == policy
    for variant in policy.variants:
        assert Variant.parse(variant.name) == Variant.parse(variant.description) == variant


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("opening(7)", "arguments are given by name"),
        ("erosion", "known operations: .*opening"),
        ("opening(size=99)", "size must be a whole number from 2 to 31, not 99"),
        ("opening(width=3)", "opening has no argument width"),
        ("opening(size=1+1)", "no operation with arguments"),
        ("opening(size=", "no operation with arguments"),
        ("__import__('os').getcwd()", "no operation with arguments"),
        ("opening(**{'size': 3})", "no operation with arguments"),
    ],
)
def test_a_name_that_no_policy_writes_is_refused(name, told):
    with pytest.raises(ValueError, match=told):
        Variant.parse(name)


@pytest.mark.parametrize(
    "spelling",
    [
        "n>=351:sample( 350 )|n > 90 : keep,opening( size = 5 ) , gaussian_noise(10)|drop",
        "  n > 350: sample(350) | n >= 91: keep, opening(5), gaussian_noise(sigma=1e1)\n| drop  ",
        "n > 350: sample(350) | n > 90: keep, opening(), gaussian_noise | drop",
    ],
)
def test_every_spelling_has_one_canonical_text(spelling):
    assert str(Policy.parse(spelling)) == "n > 350: sample(350) | n > 90: keep, opening, gaussian_noise | drop"


def test_arguments_that_are_not_the_default_are_named():
    text = "n < 5: drop | keep, opening(7), gaussian_noise(12.5), salt_pepper(fraction=0.1)"
    canonical = "n < 5: drop | keep, opening(size=7), gaussian_noise(sigma=12.5), salt_pepper(fraction=0.1)"
    assert str(Policy.parse(text)) == canonical
    assert [variant.name for variant in Policy.parse(text).variants][0] == "opening(size=7)"


def test_bands_are_what_earlier_rules_leave():
    rules = Policy.parse("n < 3: drop | n > 100: sample(5) | n <= 10: keep, opening | keep").rules
    assert [rule.band for rule in rules] == ["1-2", "101+", "3-10", "11-100"]
    assert [rule.band for rule in Policy.parse("n >= 2: keep | drop").rules] == ["2+", "1"]


@pytest.mark.parametrize(
    ("text", "column", "said", "remedy"),
    [
        ("", 1, "a rule is missing", "keep, sample"),
        ("n > 3: keep", 12, "no rule matches n < 4", "| drop"),
        ("n < 3: keep", 12, "no rule matches n > 2", "| drop"),
        ("n > 9: keep | n < 3: drop", 26, "no rule matches 2 < n < 10", "| drop"),
        ("n > 3: keep | n > 5: drop | drop", 15, "can never match", "remove it"),
        ("drop | n > 5: keep", 8, "can never match", "before the rule"),
        ("n < 1: drop | keep", 1, "can never match", "remove it"),
        ("n > 3: keep | n < 9: keep | drop", 29, "can never match", "remove it"),
        ("n > 3: keep, openning | drop", 14, "'openning' is not an operation", "did you mean 'opening'?"),
        ("n > 3: keep, zzz | drop", 14, "'zzz' is not an operation", "gaussian_noise, grey, hsv"),
        ("n > 3: keep, keep | drop", 14, "'keep' is not an operation", "can only stand first"),
        ("n > 3: keep, | drop", 14, "'|' is not an operation", "use one of"),
        ("n > 3: keep, opening(99) | drop", 22, "size must be a whole number from 2 to 31, not 99", "opening(size=5)"),
        ("n > 3: keep, opening(2.5) | drop", 22, "size must be a whole number", "opening(size=5)"),
        ("n > 3: keep, opening('5') | drop", 22, "not '5'", "opening(size=5)"),
        ("n > 3: keep, opening(007) | drop", 22, "'007' is not a number", "opening(size=5)"),
        ("n > 3: keep, opening(5, 6) | drop", 25, "too many arguments", "opening(size=5)"),
        ("n > 3: keep, opening(width=6) | drop", 22, "no argument 'width'", "opening(size=5)"),
        ("n > 3: keep, opening(5, size=6) | drop", 25, "given twice", "opening(size=5)"),
        ("n > 3: keep, opening(size=) | drop", 27, "size has no value", "opening(size=5)"),
        ("n > 3: keep, opening(5 | drop", 24, "the bracket of 'opening' is not closed", "opening(size=5)"),
        ("n > 3: keep, opening(None) | drop", 22, "not 'None'", "opening(size=5)"),
        ("n > 3: keep, gaussian_noise(0) | drop", 29, "sigma must be a number from 0.1 to 128", "sigma=10"),
        ("n > 3: keep, opening, opening(5) | drop", 23, "'opening' stands twice", "vary an argument"),
        ("n > 3: opening | drop", 8, "a rule cannot begin with 'opening'", "keep, sample(COUNT) or drop"),
        ("n > 3: sample | drop", 15, "'sample' needs a count", "sample(350)"),
        ("n > 3: sample(0) | drop", 15, "cannot sample 0 images", "at least 1"),
        ("n > 3: sample(3.5) | drop", 15, "'sample' needs a whole number", "sample(350)"),
        ("n > 3: sample(3 | drop", 17, "the bracket of 'sample' is not closed", "sample(350)"),
        ("drop, opening", 7, "'drop' leaves no image", "remove one"),
        ("n > 3.5: keep | drop", 5, "whole number, not '3.5'", "n > 90:"),
        ("n = 3: keep | drop", 3, "'n' needs a comparison", "n > 90:"),
        ("n > 3 keep | drop", 7, "a condition ends with ':'", "n > 90: keep"),
        ("n > 3: keep; drop", 12, "unexpected character ';'", "n > 90: keep"),
        ("n > 3: keep drop", 13, "unexpected 'drop'", "'|'"),
        ("m > 3: keep | drop", 1, "a rule cannot begin with 'm'", "'n > 90:'"),
        ("n > 3: keep, opening(__import__('os')) | drop", 22, "not '__import__'", "opening(size=5)"),
        ("n > 3: keep, opening(2+3) | drop", 23, "the bracket of 'opening' is not closed", "opening(size=5)"),
    ],
)
def test_a_bad_policy_is_refused_with_place_and_remedy(text, column, said, remedy):
    with pytest.raises(SettingsError) as raised:
        Policy.parse(text)
    first, shown, caret = str(raised.value).split("\n")
    assert first.startswith(f"setting 'policy', column {column}: ")
    assert said in first
    assert remedy in first
    assert shown[2:] == text
    assert caret == " " * (column + 1) + "^"


@given(st.text(alphabet="n<>=:|,()0123456789.keep sample drop opening'-", max_size=60))
def test_any_text_is_a_policy_or_refused(text):
    try:
        assert Policy.parse(str(Policy.parse(text))) == Policy.parse(text)
    except SettingsError as error:
        assert "column" in str(error)


def test_every_operation_can_be_named_without_arguments():
    text = ", ".join(["keep", *OPERATIONS])
    assert [variant.operation for variant in Policy.parse(text).variants] == list(OPERATIONS)
