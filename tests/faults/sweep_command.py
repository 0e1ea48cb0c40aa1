"""The command that tests/faults/sweeps.py starts and kills: evals.sweep with the tests' tasks and models. And the judge
that the loopback server is."""

from evals import sweep
from evals.sweeping import targets
from msm_jax import cli
from tests.evals import sweeping

real = targets.inspect_model


def scripted(target, args):
    name, args = real(target, args)
    return ("scripted/step" if target.step is not None else name), args


def judge(model, system, user, schema):
    return "<verdict>yes</verdict>" if "yes" in user else "<verdict>no</verdict>"


if __name__ == "__main__":
    targets.inspect_model = scripted
    assert sweeping.judged_choice  # registered
    cli.entry(sweep.main)
