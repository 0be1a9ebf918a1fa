"""A user's mistake is one line that says what was received and what is allowed."""

import shutil

import pytest
from runs import SMALL, mistake, train_small

import sample
import train
from diffusion.run import checkpoint


def test_a_refused_command_leaves_the_runs_config_as_it_is(run_dir, capsys):
    before = (run_dir / "config.json").read_text()
    argv = [*SMALL, "--run-dir", run_dir]
    assert "beyond run.num_steps=1; use more steps" in mistake(
        train.main, [*argv, "--run.num-steps", "1"], capsys
    )
    mistake(train.main, [*argv, "--sampling.grid.rho", "0.001"], capsys)
    assert (run_dir / "config.json").read_text() == before


def test_checkpoints_without_their_config_are_an_error(run_dir, tmp_path, capsys):
    shutil.copytree(run_dir / "checkpoints", tmp_path / "checkpoints")
    error = mistake(train.main, [*SMALL, "--run-dir", tmp_path], capsys)
    assert "but no config.json; restore that file" in error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["digits", "--run.num-steps", "4800"], "the learning rate is 0"),
        (["digits", "--run.seed", "99999999999999999999"], "seed=99999999999999999999"),
        (["digits", "--sampling.grid.rho", "nan"], "rho=nan is outside (0, inf)"),
        (["digits", "--sampling.grid.rho", "0.001"], "does not descend to 0 in 18 steps"),
        (["digits", "--noise.mean", "inf"], "mean=inf is outside"),
        (["digits", "--model.head-dim", "0"], "head_dim=0"),
        (["digits", "--model.num-groups", "0"], "num_groups=0"),
        (["digits", "--model.out-channels", "2"], "out_channels=2"),
        (["digits", "--optimizer.b1", "2"], "b1=2.0"),
        (["digits", "--optimizer.learning-rate", "nan"], "learning_rate=nan"),
        (["digits", "--optimizer.clip-norm", "nan"], "clip_norm=nan"),
        (["digits", "--preconditioning.sigma-data", "inf"], "sigma_data=inf"),
        (["digits", "--label-dropout", "0", "--sampling.guidance", "2"], "label_dropout above 0"),
        (["digitz"], "did you mean 'digits'"),
        (["digits", "--model.chanels", "3"], "did you mean '--model.channels'"),
        (["digits", "--optimizer.kind", "sgd"], "kinds are chosen in a recipe's file"),
        (["digits", "--ema", "PowerFunction"], "kinds are chosen in a recipe's file"),
        (["digits", "--augment", "Flip"], "kinds are chosen in a recipe's file"),
        (["digits", "--run.num-steps", "many"], "'many' is not INT"),
        (["digits", "--run.num-steps"], "expected one argument"),
        (["digits", "--run.num-steps", "0"], "error: --run.num-steps: num_steps=0 must be"),
        (["digits", "--sampling.num-steps", "0"], "--sampling.num-steps: num_steps=0 must be"),
        (["digits", "--optimizer.warmup-steps", "9999"], "--optimizer.warmup-steps: decay_steps="),
        (["digits", "--run.seed", "-1"], "seed=-1"),
        (["digits", "stray"], "unexpected argument 'stray'"),
        (["digits", "--model.image-size", "9"], "image_size=9"),
        (
            ["digits", "--model.image-size", "16", "--model.attention-resolutions", ""],
            "image_size=16 does not fit the data",
        ),
        (["digits", "--model.image-size", "8,16"], "image_size=(8, 16)"),
        (["digits", "--model.in-channels", "3"], "in_channels=3 does not fit the data"),
        (["digits", "--model.num-classes", "3"], "num_classes=3 does not fit the data"),
        (["digits", "--model.context-channels", "8"], "context_channels=8 does not fit the data"),
        (["digits", "--model.condition-channels", "1"], "condition_channels=1 does not fit"),
        (["digits", "--model.augment-channels", "9"], "augment_channels=9 does not fit"),
        (["digits", "--model.self-conditioning", "true"], "the model takes x_0_hat, which neither"),
        (["digits", "--model.channel-mult", "1,0.3"], "channel_mult=(1, 0.3)"),
        (["digits", "--model.decoder-attention-resolutions", "5"], "decoder_attention_resolutions"),
        (
            ["digits", "--data.labelled", "false", "--sampling.guidance", "2"],
            "label_dropout above 0",
        ),
        (["digits", "--run.steps-per-dispatch", "0"], "steps_per_dispatch=0"),
        (["cifar10_ddpm", "--noise.beta-end", "0.03"], "did you mean '--schedule.beta-end'"),
        (["cifar10_ddpm", "--schedule.beta-end", "2"], "--schedule.beta-end: beta_end=2.0 is"),
        (
            ["cifar10_ddpm", "--schedule.num-timesteps", "500", "--dry-run"],
            "num_steps=1000 is more",
        ),
        (["cifar10_ddpm", "--schedule", "VE"], "kinds are chosen in a recipe's file"),
        (
            ["imagenet64_edm2_s", "--data.path", "nowhere"],
            "nowhere holds no train_data_batch_1.npz",
        ),
        (["imagenet64_edm2_s", "--model.augment-channels", "9"], "unknown option"),
        (["imagenet64_edm2_s", "--model.head-dim", "7"], "head_dim=7"),
        (["digits", "--optimizer.learning-rate", "0"], "learning_rate=0.0"),
        (["digits", "--data.batch-size", "0"], "batch_size=0"),
        (["digits", "--data.batch-size", "0", "--dry-run"], "batch_size=0"),
        (["digits", "--data.batch-size", "30"], "not divisible by the 4 devices"),
        (["digits", "--mesh.data", "3", "--mesh.fsdp", "2"], "4 devices"),
    ],
)
def test_a_mistake_in_training_is_one_line(tmp_path, capsys, options, says):
    assert says in mistake(train.main, [*options, "--run-dir", tmp_path / "run"], capsys)


def test_after_a_mistake_the_folder_is_free(tmp_path, capsys):
    mistake(train.main, [*SMALL, "--run-dir", tmp_path, "--model.num-classes", "3"], capsys)
    train_small(tmp_path, "--run.num-steps", "1")
    assert checkpoint.steps(tmp_path) == [1]


def test_an_edited_config_is_not_reported_as_a_damaged_checkpoint(run_dir, tmp_path, capsys):
    edited = tmp_path / "run"
    shutil.copytree(run_dir, edited)
    config = checkpoint.read_config(edited)
    config["model"]["channels"] = 16
    checkpoint.write_config(edited, config)
    error = mistake(sample.main, [edited], capsys)
    assert "was that file edited?" in error and "damaged" not in error


def test_a_config_of_another_version_names_the_field(run_dir, tmp_path, capsys):
    config = checkpoint.read_config(run_dir)
    config["model"]["colour"] = "blue"
    checkpoint.write_config(tmp_path, config)
    error = mistake(sample.main, [tmp_path], capsys)
    assert "not a recipe of this version" in error and "colour" in error


def test_a_folder_of_another_run_is_refused_with_the_fields_that_differ(run_dir, capsys):
    argv = [*SMALL, "--run-dir", run_dir, "--run.seed", "5", "--model.dropout", "0.5"]
    error = mistake(train.main, argv, capsys)
    assert "model.dropout 0.0 there, 0.5 here; run.seed 0 there, 5 here" in error


def test_a_run_beyond_the_last_step_is_refused(run_dir, capsys):
    error = mistake(train.main, [*SMALL, "--run-dir", run_dir, "--run.num-steps", "7"], capsys)
    assert "is already at step 12, beyond run.num_steps=7" in error


@pytest.mark.parametrize("main", [train.main, sample.main])
def test_a_folder_that_cannot_be_written_is_named(run_dir, tmp_path, capsys, main):
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "run"
    argv = [run_dir, "--out", inside] if main is sample.main else [*SMALL, "--run-dir", inside]
    assert str(inside) in mistake(main, argv, capsys)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--label", "10"], "class from 0 to 9"),
        (["--label", "-1"], "class from 0 to 9"),
        (["--label", "three"], "class from 0 to 9"),
        (["--label", "\u00b2"], "class from 0 to 9"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", "99999999999999999999"], "--seed 99999999999999999999"),
        (["--num-images", "0"], "must be 1 or more"),
        (["--num-steps", "0"], "num_steps=0"),
        (["--guidance", "nan"], "guidance=nan"),
        (["--sampler", "heum"], "invalid choice"),
        (["--eta", "0.5"], "Heun has no eta"),
        (["--spacing", "leading"], "Karras is no grid of timesteps"),
        (["--sampler", "ddim", "--eta", "1.5"], "eta=1.5 is outside [0, 1]"),
        (["--sampler", "dpm-sde", "--eta", "nan"], "eta=nan is outside"),
        (["--step", "5"], "it has [6, 9, 12]"),
        (["--guidence", "2"], "did you mean '--guidance'"),
        (["--ema", "0.2"], "this run keeps 0.995"),
    ],
)
def test_a_mistake_in_sampling_is_one_line(run_dir, capsys, options, says):
    assert says in mistake(sample.main, [run_dir, *options], capsys)


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert "is not a run's folder" in mistake(sample.main, [tmp_path], capsys)


def test_a_run_without_a_checkpoint_is_named(run_dir, tmp_path, capsys):
    checkpoint.write_config(tmp_path, checkpoint.read_config(run_dir))
    assert "holds no checkpoint" in mistake(sample.main, [tmp_path], capsys)
