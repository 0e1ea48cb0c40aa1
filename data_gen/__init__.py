"""From a Model Spec to packed training rows."""
