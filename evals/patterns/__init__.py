"""Why models did what they did: reasons in transcripts, extracted, put in categories, counted."""
