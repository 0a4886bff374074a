import subprocess
import sys
from collections.abc import Iterator
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
        ("[aescot.teacher]\nkind = 'vllm'", "needs model: a model folder"),
        ("[rapo.reward]\npreset = 'upstream'\ngamma = 0.5", "preset 'upstream' fixes gamma"),
        ("[rapo]\nsteps = 3, 4", "not valid TOML"),
        ("[run]\nseed = -1", "'run.seed' = -1"),
        ("[data]\nscore_range = [0, inf]", "should be a finite number"),
        ("[data]\nname = '../x'", "a data set's name may not be"),
        ("[data]\nname = ''", "a data set's name may not be"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path, text, said):
    path = write(tmp_path / "c.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def floats(tree: dict[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from floats(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            yield prefix + key


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_number_is_beyond_all_numbers(value: str) -> None:
    keys = list(floats(Config().model_dump()))
    assert len(keys) > 20
    for key in keys:
        with pytest.raises(ConfigError, match=key):
            load_config(overrides=[f"{key}={value}"])


def test_a_long_value_is_not_quoted_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[f"rapo.steps={'x' * 5000}"])
    assert len(str(caught.value)) < 300


def test_a_byte_order_mark_before_the_file_is_no_part_of_it(tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf[run]\nseed = 7\n")
    assert load_config(path).run.seed == 7


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
    new = load_config(
        None, ["ray.address=auto", "rapo.watch.window=3", "rollout.workers=5", "learner.freeze_vision=true"]
    )
    assert diff_config(old, new) == ["learner.freeze_vision: False -> True"]


#: What an operator changes after a lack of memory, or on other hardware.
MEMORY = [
    "coldstart.gradient_checkpointing=true",
    "coldstart.micro_batch_size=2",
    "coldstart.micro_batch_tokens=4096",
    "coldstart.offload=optimizer",
    "learner.chunk_mib=64",
    "learner.gradient_checkpointing=true",
    "learner.micro_batch_groups=1",
    "learner.micro_batch_tokens=4096",
    "learner.offload=optimizer",
    "learner.threads=4",
    "learner.zero_stage=3",
    "rollout.engine.enforce_eager=true",
    "rollout.engine.gpu_memory_utilization=0.5",
    "rollout.engine.max_num_seqs=8",
    "rollout.engine.tensor_parallel_size=2",
    "rollout.threads=4",
]


def test_what_saves_memory_or_uses_other_hardware_may_change():
    assert diff_config(load_config(), load_config(None, MEMORY)) == []
    on_gpus = ["policy.dtype=float32", "coldstart.gpus=1", "learner.gpus=1", "rollout.gpus=1", "rollout.cpus=4"]
    assert diff_config(load_config(), load_config(None, on_gpus)) == []


def test_what_a_run_computes_may_not_change():
    may = set(keys_that_may_change())
    for key in ("coldstart.workers", "coldstart.batch_size", "learner.lora.rank", "policy.dtype", "rapo.completions"):
        assert not any(f"{key}.".startswith(free) for free in may), key


def test_the_dtype_follows_the_device():
    assert load_config().policy.dtype == "float32"
    for key in ("coldstart.gpus", "learner.gpus", "rollout.gpus", "serve.gpus"):
        assert load_config(None, [f"{key}=1"]).policy.dtype == "bfloat16"
    assert load_config(None, ["learner.gpus=1", "policy.dtype=float32"]).policy.dtype == "float32"


def test_in_bfloat16_sampler_and_learner_may_differ_by_more():
    def bound(*overrides):
        return load_config(None, overrides).rapo.watch.mismatch_kl

    assert bound() == bound("learner.gpus=1", "policy.dtype=float32") == 0.001
    assert bound("learner.gpus=1") == bound("policy.dtype=bfloat16", "rapo.watch.window=7") == 0.01
    assert bound("learner.gpus=1", "rapo.watch.mismatch_kl=0.002") == 0.002
    assert load_config(None, ["policy.dtype=bfloat16", "rapo.steps=3"]).rapo.steps == 3


def test_a_worker_has_a_gpu_for_each_part_of_its_model():
    def gpus(*overrides):
        return load_config(None, overrides).rollout.worker_gpus

    split = "rollout.engine.tensor_parallel_size=4"
    assert gpus(split) == 0.0
    assert gpus("rollout.gpus=1", split) == gpus("rollout.gpus=4", split) == 4.0
    assert gpus("rollout.gpus=0.5") == 0.5
    assert load_config(None, ["serve.gpus=1", split]).serve_gpus == 4.0
    with pytest.raises(ConfigError, match=r"rollout\.gpus = 0\.5 does not fit .*tensor_parallel_size = 4"):
        gpus("rollout.gpus=0.5", split)


def test_a_role_without_gpus_sees_none_and_has_the_clusters_variables():
    ray = load_config(
        None, ['ray.env={all={NCCL_SOCKET_IFNAME="eth0"}, learner={NCCL_DEBUG="INFO", CUDA_VISIBLE_DEVICES="3"}}']
    ).ray
    hidden = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    assert ray.environment("rollout", 1.0) == {"NCCL_SOCKET_IFNAME": "eth0"}
    assert ray.environment("learner", 0.0) == {"NCCL_SOCKET_IFNAME": "eth0", "NCCL_DEBUG": "INFO", **hidden}
    assert ray.environment("learner", 1.0)["CUDA_VISIBLE_DEVICES"] == "3"
    with pytest.raises(ConfigError, match=r"ray\.env"):
        load_config(None, ['ray.env={leaner={A="b"}}'])


def test_an_offload_needs_zero():
    for section in ("coldstart", "learner"):
        with pytest.raises(ConfigError, match=f"{section}.offload = 'optimizer' needs {section}.zero_stage"):
            load_config(None, [f"{section}.offload=optimizer", f"{section}.zero_stage=0"])


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


def test_teacher_and_rollout_engines_have_defaults_of_their_own() -> None:
    overrides = ["aescot.teacher.kind=vllm", "aescot.teacher.model=m", "aescot.teacher.engine.max_num_seqs=8"]
    engine = load_config(overrides=overrides).aescot.teacher.engine
    assert (engine.max_num_seqs, engine.max_model_len) == (8, 4096)
    assert Config().rollout.engine.max_model_len == 512
    assert "[aescot.teacher.engine]" in dump_config(Config())
    with pytest.raises(ConfigError, match=r"aescot\.teacher\.temperature"):
        load_config(overrides=["aescot.teacher.temperature=-1"])
