"""Names of slices become what libtpu is asked for, or one clear line."""

import itertools

import pytest

from msm_jax import topology
from msm_jax.cli import UserError


@pytest.mark.parametrize(
    ("name", "chips", "devices", "kwargs"),
    [
        ("v5p:4x4x4", 64, 64, {"topology_name": "v5:4x4x4", "chip_config_name": "megacore", "wrap": (True,) * 3}),
        ("v5p:2x2x2", 8, 8, {"wrap": (False,) * 3, "chips_per_host_bounds": (2, 2, 1), "num_slices": 1}),
        ("v5p:4x4x4*2", 128, 128, {"topology_name": "v5:4x4x4", "num_slices": 2}),
        ("v4:2x2x1", 4, 4, {"topology_name": "v4:2x2x1", "chip_config_name": "megacore"}),
        ("v5e:1x1", 1, 1, {"chips_per_host_bounds": (1, 1, 1)}),
        ("v5e:8x16", 128, 128, {"wrap": (False, True, False), "chip_config_name": "default"}),
        ("v6e:16x16", 256, 256, {"topology_name": "v6e:16x16", "wrap": (True, True, False)}),
        ("tpu7x:4x4x4", 64, 128, {"wrap": (True,) * 3}),
    ],
)
def test_names(name, chips, devices, kwargs):
    found = topology.parse(name)
    assert (found.name, found.chips, found.device_count) == (name, chips, devices)
    assert kwargs.items() <= found.kwargs().items()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5p", "must look like v5p:4x4x4"),
        ("v5p:4x4x4*", "must look like"),
        ("v9:4x4x4", "no generation 'v9'; there are v4, v5e, v5p, v6e, tpu7x"),
        ("v5p:3x4x4", "no such slice; there are v5p:2x2x1"),
        ("v5p:8x4x4", "no such slice"),
        ("v5p:4x4", "no such slice"),
        ("v5p:0x4x4", "no such slice"),
        ("v5p:32x32x32", "no such slice"),
        ("v5e:4x4x4", "no such slice"),
        ("v5e:32x32", "there are v5e:1x1"),
        ("v5p:4x4x4*0", "no such slice"),
    ],
)
def test_what_does_not_exist(name, message):
    with pytest.raises(UserError) as found:
        topology.parse(name)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("generation", topology.GENERATIONS)
def test_sizes_exist_and_grow(generation):
    found = list(itertools.islice(topology.sizes(generation), 40))
    assert [topology.parse(t.name) for t in found] == found
    assert [t.chips for t in found] == sorted({t.chips for t in found})


def test_no_libtpu_is_one_line(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'msm_jax\[plan\]'"):
        topology.devices(topology.parse("v5e:2x2"))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("ABORTED: Internal error when accessing libtpu multi-process lockfile.\n Run rm …", "held by another process"),
        (
            "INVALID_ARGUMENT: Topology layout is\nodd",
            "topology v5e:2x2: libtpu refuses it (INVALID_ARGUMENT: Topology",
        ),
    ],
)
def test_what_libtpu_says_is_one_line(monkeypatch, said, message):
    from jax.experimental import topologies

    def refuse(**_):
        raise RuntimeError(said)

    monkeypatch.setattr(topology, "require_libtpu", lambda: None)
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError) as found:
        topology.devices(topology.parse("v5e:2x2"))
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_environment_of_a_compile():
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "tpu", "HOME": "/"}
    topology.prepare(environment)
    assert environment == {"HOME": "/"} | topology.ENVIRONMENT
    assert environment["JAX_PLATFORMS"] == "cpu"
