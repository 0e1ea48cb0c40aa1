"""What a Model Spec and its corpus can be turned into: variants of the spec, rewrites of the documents."""
