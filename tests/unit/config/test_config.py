import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from rapo.config import Config, diff_config, dump_config, load_config
from rapo.config.load import keys_that_may_change
from rapo.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rapo]\nstep = 3", "unknown key 'rapo.step'; did you mean 'steps'?"),
        ("[rapp]\nsteps = 3", "unknown key 'rapp'; did you mean 'rapo'?"),
        ("[rapo.loss]\nklbeta = 0.1", "unknown key 'rapo.loss.klbeta'; did you mean 'kl_beta'?"),
        ("[rapo]\nxyzzy = 3", "unknown key 'rapo.xyzzy'"),
        ("[rapo]\nsteps = 0", "'rapo.steps' = 0"),
        ("[rapo]\nsteps = 'many'", "'rapo.steps' = 'many'"),
        ("[rapo]\ncheckpoint_every = 0", "'rapo.checkpoint_every' = 0"),
        ("[rapo]\ncompletions = 1", "'rapo.completions' = 1"),
        ("[aescot]\nbands = [0.5, 0.2]", "ascending numbers"),
        ("[aescot.teacher]\nkind = 'vllm'", "local model folder"),
        ("[rapo.reward]\npreset = 'upstream'\ngamma = 0.5", "preset 'upstream' fixes gamma"),
        ("[rapo]\nsteps = 3, 4", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path, text, said):
    path = write(tmp_path / "c.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_several_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"rapo\.steps.*serve\.port"):
        load_config(write(tmp_path / "c.toml", "[rapo]\nsteps = 0\n[serve]\nport = 70000"))


def test_no_suggestion_where_nothing_is_near(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path / "c.toml", "[rapo]\nxyzzy = 3"))
    assert "did you mean" not in str(caught.value)


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"not found: .*nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="not found"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes("# café".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.toml.*UTF-8"):
        load_config(tmp_path / "latin.toml")


def test_overrides_are_toml_values_or_bare_words(tmp_path):
    config = load_config(
        write(tmp_path / "c.toml", "[rapo]\nsteps = 7"),
        [
            "rapo.steps=9",
            "rapo.learning_rate = 1e-5",
            "learner.freeze_vision=true",
            "data.path=/data/ava with space",
            "aescot.bands=[0.0, 0.5, 1.0]",
            "rapo.reward.sigma={ava = 0.2}",
            'data.name="a=b"',
        ],
    )
    assert config.rapo.steps == 9
    assert config.rapo.learning_rate == 1e-5
    assert config.learner.freeze_vision is True
    assert config.data.path == Path("/data/ava with space")
    assert config.aescot.bands == (0.0, 0.5, 1.0)
    assert config.rapo.reward.sigma == {"ava": 0.2}
    assert config.data.name == "a=b"


@pytest.mark.parametrize("override", ["rapo.steps", "=3", "rapo.=3", ".steps=3"])
def test_an_override_that_is_none_is_refused(override):
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load_config(None, [override])


def test_an_override_cannot_go_below_a_value_and_is_checked_like_the_file():
    with pytest.raises(ConfigError, match="'seed' is a value, not a section"):
        load_config(None, ["run.seed.low=3"])
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        load_config(None, ["rapo.stps=3"])


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.path=/x", "data.score_range=[1, 10]", "rapo.reward.sigma={ava = 0.2, 'a.b' = 0.3}"],
        [
            "rapo.reward.preset=upstream",
            "rapo.reward.weight_grounded=0",
            "ray.temp_dir=/y",
            "learner.freeze_vision=true",
        ],
    ],
)
def test_what_is_written_reads_back_the_same(tmp_path, overrides):
    config = load_config(None, overrides)
    assert load_config(write(tmp_path / "c.toml", dump_config(config))) == config


def test_a_difference_is_named_with_both_values():
    old = load_config(None, ["rapo.steps=200"])
    new = load_config(None, ["rapo.steps=9", "data.path=/x", "rapo.reward.sigma={ava = 0.2}"])
    assert diff_config(old, old) == []
    assert diff_config(old, new) == [
        "data.path: None -> '/x'",
        "rapo.reward.sigma: 0.1 -> None",
        "rapo.reward.sigma.ava: None -> 0.2",
        "rapo.steps: 200 -> 9",
    ]


def test_how_a_run_is_executed_is_no_difference():
    old = load_config()
    new = load_config(None, ["ray.address=auto", "rapo.watch.window=3", "rollout.workers=5", "learner.threads=2"])
    assert diff_config(old, new) == ["learner.threads: 1 -> 2"]


def test_these_keys_may_change_when_a_run_is_continued():
    endpoint = (
        *("base_url", "key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "request_timeout_s"),
        *("item_timeout_s", "retries", "max_failures", "prompt_price", "completion_price", "budget"),
    )
    assert {key.removesuffix(".") for key in keys_that_may_change()} == {
        *(f"aescot.{role}.endpoint.{key}" for role in ("teacher", "judge") for key in endpoint),
        "aescot.timeout_s",
        "coldstart.labels",
        "learner.labels",
        "rollout.labels",
        "coldstart.timeout_s",
        "learner.hang_timeout_s",
        "learner.max_failures",
        "learner.snapshot_every",
        "learner.start_timeout_s",
        "learner.step_timeout_s",
        "learner.workers",
        "rapo.checkpoint_every",
        "rapo.keep_checkpoints",
        "rapo.watch",
        "ray",
        "rollout.autoscale",
        "rollout.generate_timeout_s",
        "rollout.hang_timeout_s",
        "rollout.heartbeat_s",
        "rollout.load_timeout_s",
        "rollout.max_workers",
        "rollout.place_timeout_s",
        "rollout.start_timeout_s",
        "rollout.workers",
        "serve",
        "storage",
        "telemetry",
    }


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(ValidationError):
        load_config().run.seed = 3  # type: ignore[misc]
    assert Config() == Config()


def test_the_light_modules_pull_in_nothing_heavy():
    code = (
        "import importlib, sys\n"
        "for name in ('rapo', 'rapo.config', 'rapo.records', 'rapo.answers.parse', 'rapo.models.folder', 'cluster.cli.main'):\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'ray', 'vllm', 'transformers', 'deepspeed', 'torchvision'} & sys.modules.keys()\n"
        "    assert not heavy, f'{name} imports {sorted(heavy)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("serve.samples=40", "more than serve.max_samples"),
        ("serve.autoscale={min_replicas = 3, max_replicas = 2}", "more than max_replicas"),
    ],
)
def test_limits_of_serving_must_fit_each_other(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config(None, [override])
    autoscale = load_config(None, ["serve.autoscale={max_replicas = 2}"]).serve.autoscale
    assert autoscale is not None
    assert autoscale.min_replicas == 1


def test_a_date_on_the_command_line_is_text():
    assert load_config(None, ["aescot.teacher.revision=2025-04-14"]).aescot.teacher.revision == "2025-04-14"
