"""The parts of data_gen.mix: shapes of rows, sources, filters, the choice, the data card."""
