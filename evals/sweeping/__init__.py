"""The parts of a sweep: what is evaluated, on what, and how one evaluation is made or gone on with."""
