"""Guards: what a training that is to change values must leave as it is: abilities, plain language, helpfulness."""
