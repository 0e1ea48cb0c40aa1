"""Word problems from templates of our own, with answers that are computed.

    python -m evals.guards.math_templates > evals/items/math.jsonl

The task reads the frozen file; a test holds it to what this makes. Four problems of each template.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

SEED = 8
EACH = 4
PEOPLE: tuple[str, ...] = ("Amina", "Bruno", "Chloe", "Dmitri", "Elena", "Farid", "Greta", "Hugo")
PEOPLE += ("Ines", "Jonas", "Kofi", "Lucia", "Mateo", "Nadia", "Oskar", "Priya")

Problem = tuple[str, int | str]  # what is asked, and the answer: an integer, or a decimal number as text


class Template(NamedTuple):
    name: str
    topic: str
    make: Callable[[random.Random], Problem]


TEMPLATES: list[Template] = []


def template(topic: str) -> Callable[[Callable[[random.Random], Problem]], Callable[[random.Random], Problem]]:
    def add(make: Callable[[random.Random], Problem]) -> Callable[[random.Random], Problem]:
        TEMPLATES.append(Template(make.__name__, topic, make))
        return make

    return add


def problems() -> Iterator[dict[str, Any]]:
    """Rows {id, template, topic, question, answer}; the same in every process."""
    for each in TEMPLATES:
        asked: set[str] = set()
        rng = random.Random(f"{SEED}/{each.name}")
        while len(asked) < EACH:
            question, answer = each.make(rng)
            if question not in asked:
                asked.add(question)
                name = f"{each.name}-{len(asked)}"
                row = {"id": name, "template": each.name, "topic": each.topic}
                yield row | {"question": question, "answer": str(answer)}


def _who(r: random.Random) -> str:
    return r.choice(PEOPLE)


def _two(r: random.Random) -> list[str]:
    return r.sample(PEOPLE, 2)


@template("shopping")
def change_from_a_note(r: random.Random) -> Problem:
    price, many, thing = r.randint(3, 9), r.randint(4, 9), r.choice(["notebooks", "lemons", "candles", "tickets"])
    asked = f"{_who(r)} buys {many} {thing} at {price} coins each and pays with a note of 100 coins."
    return f"{asked} How many coins come back?", 100 - price * many


@template("shopping")
def two_kinds_of_goods(r: random.Random) -> Problem:
    a, b, pa, pb = r.randint(2, 9), r.randint(2, 9), r.randint(3, 12), r.randint(3, 12)
    asked = f"A cup costs {pa} coins and a plate costs {pb} coins. {_who(r)} buys {a} cups and {b} plates."
    return f"{asked} What is the bill in coins?", a * pa + b * pb


@template("shopping")
def reduced_price(r: random.Random) -> Problem:
    price, cut = r.randint(4, 30) * 20, r.choice([5, 10, 15, 20, 25, 30, 40])
    asked = f"A coat that costs {price} coins is sold with {cut} per cent off."
    return f"{asked} How many coins does {_who(r)} pay for it?", price * (100 - cut) // 100


@template("shopping")
def three_for_two(r: random.Random) -> Problem:
    packs, price = r.randint(2, 8), r.randint(2, 9)
    asked = (
        f"In a shop every third jar is free. One jar costs {price} coins, and {_who(r)} takes {3 * packs} jars home."
    )
    return f"{asked} How many coins were paid?", 2 * packs * price


@template("shopping")
def weeks_of_saving(r: random.Random) -> Problem:
    weekly, weeks, have = r.randint(4, 15), r.randint(3, 12), r.randint(5, 40)
    who, price = _who(r), weekly * weeks + have
    asked = f"{who} has {have} coins, wants a bicycle that costs {price} coins, and saves {weekly} coins a week."
    return f"{asked} After how many weeks is there enough?", weeks


@template("shopping")
def shared_bill(r: random.Random) -> Problem:
    friends, each, tip = r.randint(3, 8), r.randint(9, 25), r.randint(1, 4)
    asked = (
        f"{friends} friends share a bill of {friends * each} coins equally, and each leaves {tip} coins more as a tip."
    )
    return f"{asked} How many coins does each of them spend?", each + tip


@template("quantities")
def eggs_in_boxes(r: random.Random) -> Problem:
    box, boxes, left = r.choice([6, 10, 12]), r.randint(5, 20), r.randint(1, 5)
    asked = f"A farm packs {box * boxes + left} eggs into boxes of {box} and fills as many boxes as it can."
    return f"{asked} How many eggs are left over?", left


@template("quantities")
def buses_for_a_trip(r: random.Random) -> Problem:
    seats, people = r.choice([30, 40, 45, 50]), r.randint(101, 390)
    asked = f"{people} pupils go on a trip in buses that take {seats} pupils each."
    return f"{asked} How many buses are needed?", -(-people // seats)


@template("quantities")
def apples_given_away(r: random.Random) -> Problem:
    a, b = _two(r)
    start, gave, got = r.randint(30, 80), r.randint(5, 14), r.randint(3, 12)
    asked = f"{a} picks {start} apples, gives {gave} to each of two neighbours, and then gets {got} more from {b}."
    return f"{asked} How many apples does {a} have now?", start - 2 * gave + got


@template("quantities")
def twice_as_many(r: random.Random) -> Problem:
    a, b = _two(r)
    small, more = r.randint(6, 40), r.randint(2, 15)
    asked = f"{a} has {small} stamps. {b} has twice as many and {more} more."
    return f"{asked} How many stamps do they have together?", small + 2 * small + more


@template("quantities")
def rows_of_chairs(r: random.Random) -> Problem:
    rows, chairs, broken = r.randint(8, 20), r.randint(9, 24), r.randint(3, 17)
    asked = f"A hall has {rows} rows of {chairs} chairs each, and {broken} chairs are broken."
    return f"{asked} How many people can sit?", rows * chairs - broken


@template("quantities")
def fraction_of_a_class(r: random.Random) -> Problem:
    part, times = r.choice([3, 4, 5, 6]), r.randint(4, 9)
    asked = f"Of {part * times} pupils in a class, one in {part} walks to school and all the others ride a bicycle."
    return f"{asked} How many ride a bicycle?", (part - 1) * times


@template("quantities")
def pages_of_a_book(r: random.Random) -> Problem:
    first, more, days = r.randint(10, 30), r.randint(2, 6), r.randint(3, 5)
    total = sum(first + more * i for i in range(days))
    asked = f"{_who(r)} reads {first} pages on the first day "
    asked += f"and on every day after it {more} pages more than the day before."
    return f"{asked} How many pages is that in {days} days?", total


@template("time")
def train_arrival(r: random.Random) -> Problem:
    hour, minute, length = r.randint(6, 15), r.choice([5, 10, 20, 25, 40, 50]), r.randint(70, 290)
    asked = f"A train leaves at {hour}:{minute:02d} and travels for {length} minutes."
    return f"{asked} How many minutes past a full hour does it arrive?", (minute + length) % 60


@template("time")
def hours_at_work(r: random.Random) -> Problem:
    days, hours, extra = r.randint(3, 6), r.randint(5, 9), r.randint(2, 7)
    asked = f"{_who(r)} works {hours} hours a day on {days} days and then {extra} hours on Sunday."
    return f"{asked} How many hours is that in all?", days * hours + extra


@template("time")
def ages_later(r: random.Random) -> Problem:
    a, b = _two(r)
    young, gap, later = r.randint(5, 20), r.randint(3, 15), r.randint(4, 12)
    asked = f"{a} is {young} years old, and {b} is {gap} years older."
    return f"{asked} How old will {b} be in {later} years?", young + gap + later


@template("time")
def oven_batches(r: random.Random) -> Problem:
    tray, trays, minutes = r.choice([8, 12, 15, 20]), r.randint(3, 9), r.randint(11, 25)
    asked = f"An oven bakes {tray} rolls in {minutes} minutes, one tray after the other."
    return f"{asked} How many minutes does it take to bake {tray * trays} rolls?", trays * minutes


@template("time")
def days_until_empty(r: random.Random) -> Problem:
    daily, days, spilt = r.randint(4, 15), r.randint(5, 20), r.randint(5, 30)
    asked = f"A tank holds {daily * days + spilt} litres. "
    asked += f"First {spilt} litres are spilt, then {daily} litres are used every day."
    return f"{asked} For how many days does the water last?", days


@template("rates")
def distance_of_two_legs(r: random.Random) -> Problem:
    v1, t1, v2, t2 = r.randint(40, 90), r.randint(2, 4), r.randint(40, 90), r.randint(1, 3)
    asked = f"A car drives for {t1} hours at {v1} km/h and then for {t2} {'hour' if t2 == 1 else 'hours'} at {v2} km/h."
    return f"{asked} How many kilometres is that?", v1 * t1 + v2 * t2


@template("rates")
def taps_together(r: random.Random) -> Problem:
    a, b, minutes = r.randint(3, 12), r.randint(3, 12), r.randint(5, 20)
    asked = f"One tap gives {a} litres a minute and another gives {b}. Both fill a tub of {(a + b) * minutes} litres."
    return f"{asked} How many minutes does it take?", minutes


@template("rates")
def typing_speed(r: random.Random) -> Problem:
    a, b = _two(r)
    slow, faster, minutes = r.randint(25, 50), r.randint(5, 25), r.randint(4, 15)
    asked = (
        f"{a} types {slow} words a minute, and {b} types {faster} words a minute more. Both type for {minutes} minutes."
    )
    return f"{asked} How many words do they type together?", (2 * slow + faster) * minutes


@template("rates")
def fuel_for_a_journey(r: random.Random) -> Problem:
    use, hundreds, price = r.randint(4, 9), r.randint(2, 9), r.randint(2, 4)
    asked = f"A van needs {use} litres for 100 km, and a litre costs {price} coins."
    return f"{asked} How many coins does the fuel for {hundreds * 100} km cost?", use * hundreds * price


@template("rates")
def recipe_for_more(r: random.Random) -> Problem:
    people, grams, times = r.choice([2, 4, 5]), r.randint(5, 20) * 10, r.randint(2, 6)
    asked = f"A soup for {people} people takes {grams} grams of lentils."
    return f"{asked} How many grams does it take for {people * times} people?", grams * times


@template("rates")
def workers_and_days(r: random.Random) -> Problem:
    workers, days, factor = r.randint(2, 6), r.randint(2, 6), r.choice([2, 3])
    asked = f"{workers} gardeners need {days * factor} days to plant a park, all working at the same pace."
    return f"{asked} How many days would {workers * factor} gardeners need?", days


@template("measures")
def fence_around_a_field(r: random.Random) -> Problem:
    long, wide, gate = r.randint(20, 60), r.randint(8, 19), r.randint(2, 5)
    asked = (
        f"A rectangular field is {long} m long and {wide} m wide. A fence goes all round it but for a gate of {gate} m."
    )
    return f"{asked} How many metres of fence are needed?", 2 * (long + wide) - gate


@template("measures")
def tiles_on_a_floor(r: random.Random) -> Problem:
    long, wide, per = r.randint(4, 12), r.randint(3, 9), r.choice([4, 9, 16])
    asked = f"A floor of {long} m by {wide} m is laid with tiles, {per} to the square metre."
    return f"{asked} How many tiles are needed?", long * wide * per


@template("measures")
def average_of_tests(r: random.Random) -> Problem:
    mean = r.randint(60, 85)
    first, second = mean + r.randint(-9, 9), mean + r.randint(-9, 9)
    third = 3 * mean - first - second
    asked = f"{_who(r)} scores {first} and {second} points in two tests."
    return f"{asked} How many points in a third test make the average {mean}?", third


@template("measures")
def rope_cut_in_pieces(r: random.Random) -> Problem:
    piece, many, rest = r.randint(15, 45), r.randint(4, 9), r.randint(3, 14)
    asked = f"From a rope of {piece * many + rest} cm {_who(r)} cuts {many} pieces of {piece} cm."
    return f"{asked} How many centimetres of rope remain?", rest


@template("measures")
def water_in_bottles(r: random.Random) -> Problem:
    half = 2 * r.randint(3, 15) + 1
    asked = f"{_who(r)} fills {half} bottles of half a litre each."
    return f"{asked} How many litres of water is that? Give a decimal number.", f"{half // 2}.5"


@template("measures")
def interest_of_a_year(r: random.Random) -> Problem:
    hundreds, rate, fee = r.randint(3, 20), r.randint(2, 8), r.randint(1, 5)
    asked = f"{_who(r)} lends {hundreds * 100} coins at {rate} per cent a year and pays a fee of {fee} coins."
    return f"{asked} How many coins of profit are left after one year?", hundreds * rate - fee


if __name__ == "__main__":
    for row in problems():
        print(json.dumps(row))
