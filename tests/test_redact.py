from __future__ import annotations

import shlex
import time

import pytest

from mpipso.redact import Redactor, is_secret


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "hf_token", "OPENAI_API_KEY", "api-key", "apiKey", "DB_PASSWORD", "MY_SECRET_1", "AUTH_TOKENS"),
        *("DB_PASS", "db_pass", "MYSQL_PWD", "SSH_PASSPHRASE", "PRIVATE_KEY", "STORE_ACCESS_KEY", "OPENAI_KEY"),
        *("CLOUD_CREDENTIALS", "AUTHORIZATION", "JWT", "COOKIE", "requirepass", "masterauth", "REDISCLI_AUTH"),
    ],
)
def test_names_that_declare_a_secret(name: str) -> None:
    assert is_secret(name, "sk-Zq81key23value456789")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("max_num_batched_tokens", "auto-sized"),
        ("tokenizer", "/models/tokenizer.json"),
        ("OUTPUT_TOKENS", "a lot"),
        ("max_token", 4096),
        ("USE_TOKEN", "true"),
        ("API_KEY", ""),
        ("sort_key", "created_at"),
        ("cache_key", "by-prefix"),
        ("CACHE_KEY", "layer_norm_v2"),
        ("shard_key", "modulo-hash-2024"),
        ("eos_token", "<|endoftext|>"),
        ("pad_token", "[PAD]"),
        ("optimization_pass", "fusion"),
        ("OLDPWD", "/home/user"),
        ("JOB_PWD", "/home/user"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/etc/google.json"),
        ("SSL_PRIVATE_KEY", "/etc/ssl/key.pem"),
        ("cookie_name", "session"),
        ("jwt_algorithm", "HS256-long"),
        ("tls_client_auth", "optional"),
        ("api_key_env", "VLLM_API_KEY"),
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
    argv += ["--api-key-env", "VLLM_API_KEY"]
    assert redactor.arguments(argv) == [
        "serve", "--api-key", "***", "--port", "80", "--auth-token=***", "--max-tokens", "many", "--api-key-env",
        "VLLM_API_KEY",
    ]  # fmt: skip


def test_each_of_several_keys_is_hidden() -> None:
    redactor = Redactor()
    argv = [
        "serve",
        "--api-key",
        "sk-123456",
        "sk-2",
        "{more}",
        "sk-345678",
        "/models/x",
        "sk-456789",
        "--port",
        "8000",
    ]
    shown = ["serve", "--api-key", "***", "***", "{more}", "***", "/models/x", "sk-456789", "--port", "8000"]
    assert redactor.arguments(argv) == shown
    assert redactor.arguments(["bench", "--token", "tok-1", "http-client"]) == [
        "bench",
        "--token",
        "***",
        "http-client",
    ]
    redactor.learn([argv, {"api-keys": ["ab-123456", 3, "ab-2", "true"]}])
    assert redactor.text("sk-123456 /models/x sk-345678 sk-456789 ab-123456") == "*** /models/x *** sk-456789 ***"
    tree = {"api_keys": ["ab-123456", 3, "ab-2", "true"], "stop_token": ["</s>", "[EOS]"], "command": argv}
    assert redactor.data(tree) == {
        "api_keys": ["***", 3, "***", "true"], "stop_token": ["</s>", "[EOS]"], "command": shown,
    }  # fmt: skip


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


@pytest.mark.parametrize(
    "text",
    [
        "X-API-Key: {}",
        'curl -H "api-key: {}"',
        "Authorization: Basic {}",
        'serve --header "Authorization: Token {}"',
        "curl -s -u user:{} http://h/",
        "https://user:{}@host/path",
        "http://h/v1?model=m&api_key={}",
        "http://h/v1?token={}&x=1",
        "serve --api-key {} --port 80",
        "serve --api-key '{}'",
        "serve --api-key={}; true",
        "export HF_TOKEN={}; serve",
        '{{"api_key": "{}"}}',
        'serve --json "{{\\"a\\": 1, \\"api_key\\":\\"{}\\"}}"',
    ],
)
def test_a_secret_inside_an_argument_is_learned(text: str) -> None:
    redactor = Redactor()
    redactor.learn(["bash", "-c", text.format("Zq9+value=")])
    assert redactor.text("a log with Zq9+value= in it") == "a log with *** in it"
    for harmless in ("$SECRET", "${SECRET}", "$(cat file)", "{secret}", "12345678"):
        redactor = Redactor()
        redactor.learn(["bash", "-c", text.format(harmless)])
        if harmless.isdecimal() and any(word in text for word in ("@host", "curl -s", "Authorization")):
            continue
        assert redactor.text(f"a log with {harmless} in it") == f"a log with {harmless} in it"


def test_what_stands_beside_a_secret_is_not_learned() -> None:
    redactor = Redactor()
    argv = ["serve", "--max-tokens", "many-more", "--port", "-u", "ubuntu:docker", "Authorization: Bearer $TOKEN"]
    redactor.learn(["bash", "-c", "tokenizer=/models/x sort_key=created exec serve --token-count 200000"])
    redactor.learn(argv)
    redactor.learn(["curl", "-u", "user:Zq9-value", "http://h:8000/"])
    redactor.learn(["serve", "--policies", '{"token_policy": "static"}'])
    text = " ".join([*argv, "tokenizer=/models/x sort_key=created 200000 http://h:8000/ user static-mode"])
    assert redactor.text(text) == text
    assert redactor.text("Zq9-value") == "***"


def test_a_secret_is_hidden_in_the_quotes_of_a_shell_and_in_a_url() -> None:
    redactor = Redactor({"A_PASSWORD": "it's/p w&Zq9", "AUTHORIZATION": "Bearer Zq9-abc", "B_TOKEN": "\udc80-half"})
    for text in (shlex.quote("it's/p w&Zq9"), "'it'\"'\"'s/p w&Zq9'", "'it%27s/p%20w%26Zq9'", "'it%27s%2Fp+w%26Zq9'"):
        assert redactor.text(text) == "'***'", text
    assert redactor.text("Zq9-abc") == "***"


def test_the_lines_of_a_secret_of_several_are_hidden() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\nab==\n-----END KEY-----\n"
    redactor = Redactor({"PRIVATE_KEY": key})
    text = "1 MIIEvQIBADANBgkq\n2 hkiG9w0BAQEFAASC\n-----BEGIN KEY-----\n"
    assert redactor.text(text) == "1 ***\n2 ***\n-----BEGIN KEY-----\n"


def test_what_is_spared_may_contain_a_secret() -> None:
    redactor = Redactor({"A_TOKEN": "passive"})
    redactor.spare(["passive-lru"])
    assert redactor.data({"policy": "passive-lru", "text": "is passive"}) == {"policy": "passive-lru", "text": "is ***"}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("failed: Bearer hf_QmF0dGxlU3Rhd...", "failed: Bearer ***..."),
        ("failed: 'Bearer hf_QmF0dGxl...; its log: /x", "failed: 'Bearer ***...; its log: /x"),
        ("hf_QmF0d... and hf_QmF0dGx...", "***... and ***..."),
        ("lU3RhdGlvbkdh is not it", "*** is not it"),
        ("hf_QmF0...", "hf_QmF0..."),
        ("3RhdGlvbkd...", "3RhdGlvbkd..."),
        ("ionGalac is whole, and so are...", "ionGalac is whole, and so are..."),
    ],
)
def test_what_is_left_of_a_secret_where_a_text_was_cut_is_hidden(text: str, hidden: str) -> None:
    redactor = Redactor({"HF_TOKEN": "hf_QmF0dGxlU3RhdGlvbkdh"})
    assert redactor.text(text) == hidden
    assert redactor.bytes(text.encode()) == hidden.encode()


def test_long_texts_take_no_time() -> None:
    redactor = Redactor()
    begun = time.process_time()
    for piece in ("a", "-", "\n", '"', ", ", "--a ", "://", "Authorization:"):
        redactor.learn(piece * (200_000 // len(piece)))
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("line", ["Bearer hf_7QmF0dGxlU3R... 200 OK\n", "Loading... \n", "." * 30])
def test_pieces_of_many_secrets_are_found_in_a_long_text(line: str) -> None:
    redactor = Redactor({f"A{number}_TOKEN": f"hf_{number}QmF0dGxlU3RhdGlvbkdh" for number in range(50)})
    hidden = redactor.text(line * 30_000)
    assert hidden.count("Bearer ***... 200 OK") == line.count("Bearer") * 30_000


def test_secrets_in_a_file_of_settings_are_hidden_and_learned() -> None:
    text = """\
# the token is needed, api_key = commented
password ab1;
    hf_token: "hf_abcdef"
proxy_set_header X-Api-Key sk-123456;
api_key = {api_key}
limit_req zone=token burst=5; map $http_api_key $user_known { }
tokenizer /models/tokenizer.json
eos_token_id 151643
max_tokens 131072
secret_size 512.5m
api_keys = ["sk-654321", 'sk-2']
api-key: [sk-654321, sk-7654321]
password [a]b
"""
    redactor = Redactor()
    hidden = redactor.settings(text)
    expected = text
    for secret in ("ab1", "hf_abcdef", "sk-123456", "sk-654321", "sk-2", "sk-7654321", "[a]b"):
        expected = expected.replace(secret, "***")
    assert hidden == expected
    assert redactor.text("hf_abcdef sk-123456 needed 151643") == "*** *** needed 151643"


def test_a_command_for_a_shell_loses_its_secrets_alone() -> None:
    redactor = Redactor()
    plain = "mpipso launch -np 2 --config 'my file.toml' --target=-1e-05"
    assert redactor.line(plain) == plain
    hidden = redactor.line("mpipso launch --mpirun-args='-x API_KEY=sk-12345678 -x B' --nodes 'a,b:c'")
    assert hidden == "mpipso launch --mpirun-args='-x API_KEY=*** -x B' --nodes 'a,b:c'"
    assert redactor.line("a --api-key=s3c --nodes 'b'") == "a '--api-key=***' --nodes b", "too short to be replaced"
    assert redactor.line("it is sk-12345678's") == "it is ***'s"


def test_a_long_line_of_a_file_takes_no_time() -> None:
    text = 200_000 * "a" + " token " + 200_000 * "b-" + 20_000 * " a = b"
    begun = time.monotonic()
    assert Redactor().settings(text)
    assert time.monotonic() - begun < 10.0
