import datetime

import pytest

from data_gen.api.prices import PRICES, Prices, prompt_bound
from data_gen.api.request import Usage
from msm_jax.cli import UserError
from tests.data_gen.api.support import asking

DAY = datetime.date(2026, 11, 21)
MILLION = 1_000_000


def test_every_kind_of_token_has_its_price():
    prices = Prices()
    cost = {
        field: prices.price("claude-opus-5-5", Usage(**{field: MILLION}), day=DAY)
        for field in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    }
    assert cost == pytest.approx(
        {"input": 4.0, "cache_read": 0.2, "cache_write_5m": 5.0, "cache_write_1h": 8.0, "output": 20.0}
    )
    usage = Usage(1000, 2000, 300, 400, 5000)
    assert prices.price("claude-opus-5-5", usage, batch=True, day=DAY) == pytest.approx(
        prices.price("claude-opus-5-5", usage, day=DAY) / 2
    )


def test_a_long_prompt_has_another_price_cached_tokens_counted():
    prices = Prices()
    short, long = Usage(input=50_000, cache_read=50_000), Usage(input=50_000, cache_read=50_001)
    assert prices.price("claude-haiku-5-5", short, day=DAY) == pytest.approx(0.1 * 0.055)
    assert prices.price("claude-haiku-5-5", long, day=DAY) == pytest.approx(0.5 * 0.0550001)


def test_a_price_has_its_days():
    prices, read = Prices(), Usage(cache_read=MILLION)
    assert prices.price("claude-sonnet-5-5", read, day=datetime.date(2026, 10, 6)) == pytest.approx(0.2)
    assert prices.price("claude-sonnet-5-5", read, day=datetime.date(2026, 10, 7)) == pytest.approx(0.1)


def test_what_is_free_costs_nothing():
    assert Prices().price("local", Usage(10**9, 10**9, 0, 0, 10**9)) == 0.0


def test_the_worst_case_bounds_every_way_to_bill_the_prompt():
    prices, request = Prices(), asking(1, schema={"type": "object", "properties": {}})
    prompt = prompt_bound(request)
    assert prompt > len(request.system + request.user) / 3
    worst = prices.worst_case(request)
    for kind in ("input", "cache_read", "cache_write_5m", "cache_write_1h"):
        assert prices.price(request.model, Usage(**{kind: prompt}, output=request.max_tokens)) <= worst
    assert prices.worst_case(request, batch=True) == pytest.approx(worst / 2)
    assert prices.worst_case(request, model="local") == 0.0


def test_unknown_models_are_named_with_the_file():
    with pytest.raises(UserError, match=r"prices\.toml: no price of 'claude-9'; add an entry \[\[models\.claude-9\]\]"):
        Prices().terms("claude-9")
    with pytest.raises(UserError, match="max_tokens = 500000.*at most 128000"):
        Prices().worst_case(asking(1, max_tokens=500_000))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("output = 20.0\n", "", "models.claude-opus-5-5: no output; add it"),
        ("output = 20.0\n", "output = '20'\n", "output = '20' is no number"),
        ("output = 20.0\n", "output = -1.0\n", "output = -1.0 is no number"),
        ("output = 20.0\n", "output = 20.0\noutputs = 1\n", "unknown key outputs"),
        ("until = 2026-10-06", "until = 'soon'", "until = 'soon' is no date"),
        ('date = "2026-11-21"', "", "not a price file"),
        ("[[models.local]]", "[[models.local]", "not a price file"),
    ],
)
def test_a_bad_price_file_is_named(tmp_path, old, new, said):
    text = PRICES.read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=r"mine\.toml") as error:
        Prices(path)
    assert said in str(error.value)


def test_no_price_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        Prices(tmp_path / "none.toml")
