import pytest

from tools.pip_settings import PipSettings, redacted

#: As pip prints it, from a file with two extra indexes, and from PIP_FIND_LINKS.
LISTING = r"""
:env:.find-links='/wheels https://mirror.example/wheels'
global.extra-index-url='https://me:secret@mirror.example/simple\nfile:///srv/simple'
global.timeout='15'
global.index-url='https://everyone.example/simple'
install.index-url='https://me:secret@team.example/simple'
install.no-cache-dir='false'
freeze.all='true'
"""


def test_the_narrower_level_wins_and_other_commands_do_not_count():
    options = PipSettings.parse(LISTING).options
    assert options["index-url"] == "https://me:secret@team.example/simple"
    assert "all" not in options


def test_uv_is_told_the_same_in_its_own_words():
    told = PipSettings.parse(LISTING).uv_environment({"PATH": "/bin"})
    assert told == {
        "PATH": "/bin",
        "UV_DEFAULT_INDEX": "https://me:secret@team.example/simple",
        "UV_INDEX": "https://me:secret@mirror.example/simple file:///srv/simple",
        "UV_FIND_LINKS": "https://mirror.example/wheels",  # pip passes over a folder that is not there
        "UV_HTTP_TIMEOUT": "15",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_NO_CACHE": "1",
    }


def test_trust_and_proxy_are_pips_and_folders_that_exist_are_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    told = PipSettings.parse(
        ":env:.cert='/ca.pem'\nglobal.client-cert='/me.pem'\nglobal.proxy='http://proxy:3128'\n"
        "global.trusted-host='a b'\nglobal.find-links='~ ~/none'\n"
    ).uv_environment({"SSL_CERT_FILE": "/other.pem"})
    assert told["SSL_CERT_FILE"] == "/ca.pem"
    assert told["SSL_CLIENT_CERT"] == "/me.pem"
    assert told["HTTP_PROXY"] == told["HTTPS_PROXY"] == "http://proxy:3128"
    assert (told["UV_INSECURE_HOST"], told["UV_FIND_LINKS"]) == ("a b", str(tmp_path))


def test_what_the_user_told_uv_stays_except_what_to_install_for():
    users = {
        "UV_DEFAULT_INDEX": "https://mine.example",
        "UV_PYTHON": "3.9",
        "UV_TORCH_BACKEND": "cu130",
        "VIRTUAL_ENV": "/v",
    }
    told = PipSettings.parse(LISTING).uv_environment(users)
    assert told["UV_DEFAULT_INDEX"] == "https://mine.example"
    assert told.keys().isdisjoint({"UV_PYTHON", "UV_TORCH_BACKEND", "VIRTUAL_ENV"})


def test_an_option_without_a_word_in_uv_is_named():
    assert PipSettings.parse(LISTING).untranslated == []
    settings = PipSettings.parse("global.require-hashes='true'\ninstall.no_binary=':all:'\nglobal.quiet='1'")
    assert settings.untranslated == ["no-binary", "require-hashes"]


def test_sources_are_named_without_credentials():
    settings = PipSettings.parse(LISTING)
    assert settings.sources(settings.uv_environment({})) == [
        "https://mirror.example/wheels",
        "https://mirror.example/simple",
        "file:///srv/simple",
        "https://team.example/simple",
    ]
    assert PipSettings({}).sources({}) == ["PyPI"]
    assert PipSettings({"no-index": "Yes"}).sources({"UV_FIND_LINKS": "/a,/b", "UV_INDEX": "x"}) == ["/a", "/b"]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("see https://u:p@host/x and ftp://token@h", "see https://host/x and ftp://h"),
        ("https://me:p@ss@host/simple", "https://host/simple"),
        ("https://host/a@1 me@example.org", "https://host/a@1 me@example.org"),
    ],
)
def test_credentials_are_cut_out_of_any_text(text, safe):
    assert redacted(text) == safe
