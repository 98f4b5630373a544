"""What logs say instead of a user's id."""

from infra.redaction import describe_failure, hash_id, hide_ids, hide_value

CANARY = "canary@example.org"


def test_digest_is_short_the_same_every_time_and_another_for_another() -> None:
    assert hash_id(CANARY) == hash_id(CANARY) == "#" + hash_id(CANARY)[1:]
    assert len(hash_id(CANARY)) == 17
    assert hash_id(CANARY) != hash_id(CANARY + "x")
    assert hash_id("\ud800").startswith("#"), "an id that is no proper text has one too"


def test_id_is_found_in_the_forms_that_python_gives_it() -> None:
    for user_id in (CANARY, "o'brien", "zoë", "a\nb", "back\\slash"):
        for text in (user_id, repr(user_id), ascii(user_id), f"KeyError({user_id!r})"):
            hidden = hide_ids(text, [user_id])
            assert user_id not in hidden
            assert hash_id(user_id) in hidden


def test_validation_messages_lose_the_value_and_keep_the_place() -> None:
    assert hide_value(f"Invalid value '{CANARY}' - at `$.type`") == "Invalid value - at `$.type`"
    assert hide_value(f'Invalid enum value "it\'s {CANARY}" - at `$.task`') == "Invalid enum value - at `$.task`"
    assert CANARY not in hide_value(f"Invalid value 'x - at `$.type` {CANARY}' - at `$.type`")
    assert CANARY not in hide_value(f"Invalid enum value 'a\n{CANARY}'")
    assert hide_value("Expected `int`, got `str` - at `$.x`") == "Expected `int`, got `str` - at `$.x`"


def fail() -> None:
    try:
        raise KeyError(CANARY)
    except KeyError as error:
        raise RuntimeError(f"nothing for {CANARY}") from error


def test_failure_is_described_with_its_places_and_causes_and_without_ids() -> None:
    try:
        fail()
    except RuntimeError as error:
        described, silent = describe_failure(error, [CANARY]), describe_failure(error, None)
    for text in (described, silent):
        assert "in fail" in text
        assert text.index("KeyError") < text.index("RuntimeError")
        assert CANARY not in text
    assert f"nothing for {hash_id(CANARY)}" in described
    assert "nothing for" not in silent.replace('raise RuntimeError(f"nothing for {CANARY}")', "")
