"""Tables, figures and the page, all from the rows of evals.rows."""
