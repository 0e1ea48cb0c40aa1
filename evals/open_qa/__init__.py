"""Open questions about an assistant's own conduct, graded from 1 to 10."""
