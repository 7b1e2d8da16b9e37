from __future__ import annotations

import pytest

from mpipso.record.redact import Redactor, is_secret


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "hf_token", "OPENAI_API_KEY", "api-key", "apiKey", "DB_PASSWORD", "MY_SECRET_1", "AUTH_TOKENS"]
)
def test_names_that_declare_a_secret(name: str) -> None:
    assert is_secret(name, "s3cr3t-value")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("max_num_batched_tokens", "auto-sized"),
        ("tokenizer", "/models/tokenizer.json"),
        ("OUTPUT_TOKENS", "a lot"),
        ("max_token", 4096),
        ("USE_TOKEN", "true"),
        ("API_KEY", ""),
    ],
)
def test_counts_tokenizers_and_switches_are_no_secrets(name: str, content: object) -> None:
    assert not is_secret(name, content)


def test_a_learned_value_is_hidden_wherever_it_turns_up() -> None:
    redactor = Redactor({"HF_TOKEN": "hf_abcdef", "HOME": "/root"})
    assert redactor.text("GET /?key=hf_abcdef from /root") == "GET /?key=*** from /root"
    assert redactor.bytes(b"\xff hf_abcdef") == b"\xff ***"
    assert redactor.data({"detail": ["x hf_abcdef"], "n": 3}) == {"detail": ["x ***"], "n": 3}


def test_the_argument_after_a_secret_flag_is_hidden() -> None:
    redactor = Redactor()
    argv = ["serve", "--api-key", "sk-1", "--port", "80", "--auth-token=tok", "--max-tokens", "many"]
    assert redactor.arguments(argv) == [
        "serve", "--api-key", "***", "--port", "80", "--auth-token=***", "--max-tokens", "many",
    ]  # fmt: skip


def test_a_variable_that_is_handed_on_is_hidden_as_in_any_other_place() -> None:
    redactor = Redactor()
    argv = ["env", "HF_TOKEN=hf_in_argv", "docker", "-e", "API_KEY=sk-123", "--env=B_TOKEN=tok123", "MAX_TOKENS=many"]
    redactor.learn({"command": argv, "header": ["-H", "Authorization: Bearer eyJhbGciOi.x-y"]})
    assert redactor.arguments(argv) == [
        "env", "HF_TOKEN=***", "docker", "-e", "API_KEY=***", "--env=B_TOKEN=***", "MAX_TOKENS=many",
    ]  # fmt: skip
    script = ["bash", "-c", "token=$(cat /run/token) exec serve --port 8000 --api-key $token", "a_token_num=131072"]
    redactor.learn([*script, 'curl -H "Authorization: Bearer $HF_TOKEN"', "Bearer authentication"])
    assert redactor.arguments(script) == script
    assert redactor.text("$HF_TOKEN authentication 131072") == "$HF_TOKEN authentication 131072"
    assert redactor.arguments(["--password=A_TOKEN=abcdef1"]) == ["--password=***"]
    text = redactor.text("hf_in_argv sk-123 tok123 many, Authorization: Bearer eyJhbGciOi.x-y")
    assert text == "*** *** *** many, Authorization: Bearer ***"


def test_a_secret_inside_another_does_not_reveal_the_rest() -> None:
    redactor = Redactor({"A_TOKEN": "abcdef", "B_TOKEN": "abcdefghij"})
    assert redactor.text("abcdefghij abcdef") == "*** ***"


def test_a_short_secret_is_hidden_in_quotes_only() -> None:
    redactor = Redactor({"A_TOKEN": "abc"})
    assert redactor.text("A_TOKEN = \"abc\" 'abc' abcd") == "A_TOKEN = \"***\" '***' abcd"


def test_a_secret_is_hidden_in_its_escaped_form_too() -> None:
    redactor = Redactor({"A_TOKEN": 'quo"te\\d'})
    assert redactor.text('A_TOKEN = "quo\\"te\\\\d"') == 'A_TOKEN = "***"'


def test_what_is_spared_is_never_hidden() -> None:
    redactor = Redactor({"A_TOKEN": "passive", "B_TOKEN": "oldest"})
    redactor.spare(["passive", "oldest"])
    redactor.learn({"c_token": "oldest"})
    told = {"policy": "passive", "token_eviction": "oldest", "text": '"oldest" passive'}
    assert redactor.data(told) == told
    words = ["--token-eviction", "oldest", "--token-order=passive", "TOKEN_ORDER=passive"]
    assert redactor.arguments(words) == words
    assert redactor.data({"d_token": "youngest"}) == {"d_token": "***"}
